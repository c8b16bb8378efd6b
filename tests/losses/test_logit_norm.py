import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitwatch.losses import LogitNormLoss, logit_norm_cross_entropy

ABSENT = float("-inf")


def batch(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, generator=generator, dtype=dtype)
    return logits, torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)


@pytest.mark.parametrize("shape", [(8, 5), (2, 5, 3, 4)])
def test_it_is_the_published_loss(shape: tuple[int, ...]) -> None:
    logits, targets = batch(*shape, dtype=torch.float64)
    published = F.cross_entropy(logits / (logits.norm(dim=1, keepdim=True) + 1e-7) / 0.04, targets)
    # eps in quadrature against 1e-7 added: relative change of the norm below 1e-6, times logits of up to 25
    torch.testing.assert_close(LogitNormLoss()(logits, targets), published, rtol=0, atol=1e-4)


@given(st.floats(1.0, 1e15), st.integers(0, 4))
def test_scaling_a_row_changes_nothing(scale: float, target: int) -> None:
    z = torch.tensor([[3.0, -1.0, 0.5, 2.0, -2.0]], dtype=torch.float64)
    targets = torch.tensor([target])
    # eps adds 3e-8 of itself to the norm of the unscaled row, and logits reach 18
    torch.testing.assert_close(
        logit_norm_cross_entropy(scale * z, targets), logit_norm_cross_entropy(z, targets), rtol=0, atol=2e-6
    )


def test_its_floor_is_what_the_docstring_says() -> None:
    k, tau = 4, 0.5
    z = torch.tensor([[k - 1.0, -1.0, -1.0, -1.0]], dtype=torch.float64)
    floor = math.log(1 + (k - 1) * math.exp(-math.sqrt(k / (k - 1)) / tau))
    assert LogitNormLoss(tau)(z, torch.tensor([0])).item() == pytest.approx(floor, abs=1e-6)  # eps: 1e-7 of the norm


@pytest.mark.parametrize(
    "row", [[0.0] * 3, [1e-30, 0.0, 0.0], [1e30, -1e30, 1e30], [2.0, ABSENT, 1.0], [0.0, ABSENT, 0.0]]
)
def test_extreme_rows_have_finite_gradients(row: list[float]) -> None:
    z = torch.tensor([row], requires_grad=True)
    value = LogitNormLoss(0.04, eps=1e-3)(z, torch.tensor([0]))
    value.backward()
    assert value.isfinite()
    assert z.grad is not None
    assert z.grad.abs().max() <= 1 / (1e-3 * 0.04)


def test_absent_classes_are_as_if_they_were_not_there() -> None:
    full = torch.tensor([[2.0, ABSENT, 1.0]])
    torch.testing.assert_close(
        LogitNormLoss()(full, torch.tensor([2])), LogitNormLoss()(full[:, [0, 2]], torch.tensor([1]))
    )


def test_gradients_are_those_of_finite_differences() -> None:
    logits, targets = batch(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: LogitNormLoss(0.5)(z, targets), logits.requires_grad_())


def test_no_counted_row_is_zero_with_zero_gradient() -> None:
    logits, _ = batch(3, 4)
    value = LogitNormLoss()(logits.requires_grad_(), torch.full((3,), -100))
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_rows_of_normalised_logits_are_not_lent() -> None:
    loss = LogitNormLoss()
    loss.lent = {}
    loss(torch.zeros(2, 20_000), torch.tensor([1, 2]))
    assert list(loss.lent) == ["terms"]


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"eps": -1.0}, {"temperature": math.nan}])
def test_what_must_be_positive_is(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be > 0, got"):
        LogitNormLoss(**options)  # type: ignore[arg-type]


def test_half_precision_is_lifted() -> None:
    logits, targets = batch(4, 5)
    assert torch.equal(LogitNormLoss()(logits.bfloat16(), targets), LogitNormLoss()(logits.bfloat16().float(), targets))
