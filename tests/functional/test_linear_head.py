import math

import pytest
import torch
from torch import Tensor, nn

from logitwatch.functional.linear_head import MOST, linear_rows


def layer(
    rows: int = 40, features: int = 7, classes: int = 5, *, bias: bool = True
) -> tuple[nn.Linear, Tensor, Tensor]:
    """A layer, what it is given and what it gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear, h = nn.Linear(features, classes, bias=bias), 3 * torch.randn(rows, features)
    with torch.no_grad():
        return linear, h, linear(h)


def told(linear: nn.Linear, h: Tensor, z: Tensor, logits: Tensor):
    bias = None if linear.bias is None else linear.bias.detach()
    return linear_rows(linear.weight.detach(), bias, h, z, logits)


@pytest.mark.parametrize("bias", [True, False])
def test_the_three_are_what_float64_says(bias: bool) -> None:
    linear, h, z = layer(bias=bias)
    rows = told(linear, h, z, z)
    weight = linear.weight.detach().double()
    pure = h.double() @ weight.T
    # Sums of float32 squares; the bias is taken off again in float32.
    assert rows.head.item() == pytest.approx(weight.norm().item() / math.sqrt(5), rel=1e-6)
    torch.testing.assert_close(rows.features.double(), h.double().norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(rows.logits.double(), pure.norm(dim=1) / math.sqrt(5), rtol=1e-5, atol=0)
    assert rows.mismatch.item() < 1e-6


def test_the_alignment_of_a_row_is_at_most_one_and_one_where_the_weight_has_one_direction() -> None:
    direction = torch.tensor([[1.0, 2.0, -2.0]])
    weight, h = torch.tensor([[1.0], [-3.0]]) @ direction, 4 * direction
    rows = linear_rows(weight, None, h, h @ weight.T, h @ weight.T)
    assert (rows.logits / (rows.head * rows.features)).item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("rows", [slice(3, 40), slice(None, None, 2), slice(39, None), [5, 30, 2, 11, 4]])
def test_logits_that_are_some_of_the_outputs_in_any_order_are_recognised(rows) -> None:
    linear, h, z = layer()
    assert told(linear, h, z, z[rows]).mismatch.item() < 1e-6


@pytest.mark.parametrize("what", ["another layer", "scaled", "permuted classes", "a softmax", "other outputs"])
def test_logits_that_are_something_else_are_told(what: str) -> None:
    linear, h, z = layer()
    logits = {
        "another layer": torch.randn(z.shape, generator=torch.Generator().manual_seed(1)),
        "scaled": 2 * z,
        "permuted classes": z.flip(-1),
        "a softmax": z.softmax(-1),
        "other outputs": z,
    }[what]
    outputs = z + torch.randn(z.shape, generator=torch.Generator().manual_seed(2)) if what == "other outputs" else z
    if what == "other outputs":  # as of a layer that adds something of its own
        logits = outputs
    assert told(linear, h, outputs, logits).mismatch.item() > 0.2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_recognised_and_measured_in_float32(dtype: torch.dtype) -> None:
    linear, h, _ = layer(features=512, classes=200)
    half = linear.to(dtype)
    with torch.no_grad():
        z = half(h.to(dtype))
    rows = told(half, h.to(dtype), z, z)
    assert {value.dtype for value in rows} == {torch.float32}
    # The rounding of the outputs, 2 ** -9 of a logit, and of the sum.
    assert rows.mismatch.item() < 0.02
    assert rows.head.item() == pytest.approx(half.weight.double().norm().item() / math.sqrt(200), rel=1e-5)


def test_what_is_not_finite_is_no_difference_and_an_output_that_is_none() -> None:
    linear, h, z = layer()
    masked = z.clone()
    masked[:, 2], masked[0] = -math.inf, math.nan
    assert told(linear, h, z, masked).mismatch.item() < 1e-6
    assert told(linear, torch.full_like(h, math.nan), z, z).mismatch.item() == math.inf


def test_of_many_rows_some_are_measured_without_a_period() -> None:
    linear, h, _ = layer(rows=8192)
    h[::32] *= 100  # the first token of each sequence
    with torch.no_grad():
        z = linear(h)
    rows = told(linear, h, z, z)
    assert len(rows.features) == len(rows.logits) == MOST
    large = (rows.features > 100).double().mean().item()
    assert large == pytest.approx(1 / 32, abs=0.01)
    assert torch.equal(told(linear, h, z, z).features, rows.features)


def test_of_wide_rows_few_are_measured() -> None:
    wide = torch.zeros(2**15, 2)
    h = torch.ones(100, 2)
    assert len(linear_rows(wide, None, h, h @ wide.T, h @ wide.T).features) == 32


def test_no_rows_and_a_head_of_zeros_will_do() -> None:
    linear, h, z = layer()
    assert told(linear, h[:0], z[:0], z[:0]).mismatch.item() == 0
    zeros = torch.zeros(5, 7)
    assert linear_rows(zeros, None, h, h @ zeros.T, h @ zeros.T).mismatch.item() == 0


def test_no_value_is_read() -> None:
    # A tensor on the meta device has no values, so to look at one raises where an accelerator would wait.
    linear, h, z = (x.to("meta") for x in layer())
    assert told(linear, h, z, z).mismatch.device.type == "meta"
