import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitwatch.losses import (
    ConfidencePenalty,
    LogitPenalty,
    MaxLogitPenalty,
    ZLoss,
    confidence_penalty,
    logit_penalty,
    max_logit_penalty,
    z_loss,
)

PENALTIES = [ZLoss, LogitPenalty, MaxLogitPenalty, ConfidencePenalty]
FUNCTIONS = [z_loss, logit_penalty, max_logit_penalty, confidence_penalty]
ABSENT = float("-inf")


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=6))
def test_the_functions_are_their_formulas_in_float64(values: list[float]) -> None:
    z = torch.tensor(values, dtype=torch.float64)
    p = z.softmax(-1)
    # float64 rounding of sums of up to six squares of up to 50
    torch.testing.assert_close(z_loss(z), z.exp().sum().log().square(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logit_penalty(z), (z * z).sum())
    torch.testing.assert_close(max_logit_penalty(z), z.max() ** 2)
    negative_entropy = torch.xlogy(p, p).sum()
    torch.testing.assert_close(confidence_penalty(z), negative_entropy, rtol=1e-9, atol=1e-12)
    hinged = torch.relu(0.3 + negative_entropy)
    torch.testing.assert_close(confidence_penalty(z, hinge=0.3), hinged, rtol=1e-9, atol=1e-12)


def test_a_hinge_leaves_alone_what_is_uncertain_enough() -> None:
    z = torch.tensor([[9.0, 0.0], [0.5, 0.0]], requires_grad=True)
    value = ConfidencePenalty(1.0, hinge=0.5, reduction="none")(z)
    value.sum().backward()
    assert value[0] > 0
    assert value[1] == 0
    assert z.grad is not None
    assert (z.grad[0] != 0).all()
    assert z.grad[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("hinge", [-0.1, math.nan, math.inf])
def test_a_hinge_that_is_no_entropy_is_refused(hinge: float) -> None:
    with pytest.raises(ValueError, match=f"hinge must be >= 0, got {hinge}"):
        ConfidencePenalty(1.0, hinge=hinge)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_each_reduction_is_of_the_same_rows(penalty: type[ZLoss]) -> None:
    z, targets = randn(4, 5), torch.tensor([0, -100, 2, 1])
    rows = penalty(0.7, reduction="none")(z, targets)
    assert rows[1] == 0
    torch.testing.assert_close(penalty(0.7, reduction="sum")(z, targets), rows.sum())
    torch.testing.assert_close(penalty(0.7)(z, targets), rows.sum() / 3)
    with pytest.raises(ValueError, match="reduction must be one of mean, none, sum, got 'avg'"):
        penalty(0.7, reduction="avg")


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("logit", [math.nan, math.inf, ABSENT])
def test_whatever_is_in_an_ignored_row_reaches_neither_value_nor_gradient(penalty: type[ZLoss], logit: float) -> None:
    z = torch.stack((randn(5), torch.full((5,), logit))).requires_grad_()
    value = penalty(1.0)(z, torch.tensor([0, -100]))
    value.backward()
    torch.testing.assert_close(value, penalty(1.0)(z[:1]))
    assert z.grad is not None
    assert z.grad[1].tolist() == [0.0] * 5


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("weight", [-1e-3, math.nan, math.inf])
def test_a_weight_that_is_no_weight_is_refused(penalty: type[ZLoss], weight: float) -> None:
    with pytest.raises(ValueError, match=f"weight must be >= 0, got {weight}"):
        penalty(weight)


@pytest.mark.parametrize(("penalty", "function"), list(zip(PENALTIES, FUNCTIONS, strict=True)))
def test_the_class_axis_is_where_torch_has_it(penalty: type[ZLoss], function: object) -> None:
    z = randn(2, 5, 3, 4)
    expected = 0.5 * z_like(function, z.movedim(1, -1)).mean()
    torch.testing.assert_close(penalty(0.5)(z), expected)
    torch.testing.assert_close(penalty(0.5)(z[0, :, 0, 0]), 0.5 * z_like(function, z[0, :, 0, 0]))


def z_like(function: object, z: Tensor) -> Tensor:
    assert callable(function)
    result = function(z, dim=-1)
    assert isinstance(result, Tensor)
    return result


@pytest.mark.parametrize("penalty", PENALTIES)
def test_ignored_rows_neither_count_nor_get_a_gradient(penalty: type[ZLoss]) -> None:
    z = randn(4, 5).requires_grad_()
    value = penalty(1.0)(z, torch.tensor([0, -100, 2, -100]))
    torch.testing.assert_close(value, penalty(1.0)(z[[0, 2]]))
    value.backward()
    assert z.grad is not None
    assert (z.grad[[1, 3]] == 0).all()
    assert (z.grad[[0, 2]] != 0).any()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_soft_targets_ignore_no_row(penalty: type[ZLoss]) -> None:
    z = randn(4, 5)
    assert torch.equal(penalty(1.0)(z, randn(4, 5).softmax(-1)), penalty(1.0)(z))


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("rows", [0, 3])
def test_no_counted_row_is_zero_with_zero_gradient(penalty: type[ZLoss], rows: int) -> None:
    z = randn(rows, 5).requires_grad_()
    value = penalty(1.0)(z, torch.full((rows,), -100))
    value.backward()
    assert value == 0
    assert z.grad is not None
    assert (z.grad == 0).all()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_gradients_are_those_of_finite_differences(penalty: type[ZLoss]) -> None:
    z = randn(3, 4, 2, dtype=torch.float64).requires_grad_()
    targets = torch.tensor([[0, 1], [-100, 2], [3, 3]])
    assert torch.autograd.gradcheck(lambda x: penalty(0.7)(x, targets), z)
    assert torch.autograd.gradgradcheck(lambda x: penalty(0.7)(x, targets), z)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("row", [[1e4, -1e4, 0.0], [3.0, ABSENT, 0.0], [0.0, 0.0, 0.0], [1e18, 1e18, -1e18]])
def test_extreme_logits_have_finite_gradients(penalty: type[ZLoss], row: list[float]) -> None:
    z = torch.tensor([row], requires_grad=True)
    value = penalty(1e-4)(z)
    value.backward()
    assert value.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_lifted(penalty: type[ZLoss], dtype: torch.dtype) -> None:
    z = randn(4, 5).to(dtype)
    assert torch.equal(penalty(1.0)(z), penalty(1.0)(z.float()))


@pytest.mark.parametrize("penalty", PENALTIES)
def test_integer_logits_are_refused(penalty: type[ZLoss]) -> None:
    with pytest.raises(TypeError, match="logits must be floating point"):
        penalty(1.0)(torch.zeros(2, 3, dtype=torch.long))
