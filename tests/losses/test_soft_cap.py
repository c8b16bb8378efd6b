import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from logitwatch.losses import (
    BinaryCrossEntropyWithLogits,
    CrossEntropyLoss,
    DistillationLoss,
    LogitSquashing,
    SoftCap,
    ZLoss,
    soft_cap,
    soft_cap_saturation,
)

ABSENT = float("-inf")


def logits(*shape: int, scale: float = 30.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("cap", [5.0, 30.0])
def test_it_is_the_formula_with_the_gradient_of_the_formula(cap: float) -> None:
    z = logits(6, 4).requires_grad_()
    ours = soft_cap(z, cap=cap)
    torch.testing.assert_close(ours, cap * torch.tanh(z / cap))
    (gradient,) = torch.autograd.grad(ours.sum(), z)
    torch.testing.assert_close(gradient, 1 - torch.tanh(z / cap) ** 2)


def test_an_absent_class_stays_absent_without_a_gradient() -> None:
    z = torch.tensor([1.0, ABSENT, math.inf], requires_grad=True)
    capped = soft_cap(z, cap=5.0)
    assert capped.tolist()[1:] == [ABSENT, 5.0]
    (gradient,) = torch.autograd.grad(capped[:2].sum(), z)
    assert gradient[1] == 0
    assert not gradient.isnan().any()


def test_the_layer_is_the_function() -> None:
    z = logits(3, 4)
    assert torch.equal(SoftCap(5.0)(z), soft_cap(z, cap=5.0))
    assert SoftCap()(z.bfloat16()).dtype == torch.float32
    assert repr(SoftCap()) == "SoftCap(cap=30.0)"


@pytest.mark.parametrize("passing", [0.01, 0.1, 0.5])
def test_a_saturated_logit_is_one_whose_gradient_does_not_pass(passing: float) -> None:
    z = logits(50, 20).requires_grad_()
    (gradient,) = torch.autograd.grad(soft_cap(z, cap=7.0).sum(), z)
    share = soft_cap_saturation(z, cap=7.0, passing=passing)
    torch.testing.assert_close(share, (gradient < passing).double().mean(1))
    assert 0 < share.mean() < 1


def test_saturation_is_of_present_classes() -> None:
    z = torch.tensor([[100.0, ABSENT, 0.0, ABSENT], [ABSENT] * 4])
    assert soft_cap_saturation(z).tolist() == [0.5, 0.0]
    assert soft_cap_saturation(z.T, dim=0).tolist() == [0.5, 0.0]


def test_squashing_is_the_loss_of_capped_logits_z_loss_and_all() -> None:
    z, y = logits(8, 4), torch.arange(8) % 4
    inner = CrossEntropyLoss(label_smoothing=0.1) + ZLoss(0.01)
    capped = 5 * torch.tanh(z / 5)
    expected = F.cross_entropy(capped, y, label_smoothing=0.1) + 0.01 * capped.logsumexp(1).square().mean()
    torch.testing.assert_close(LogitSquashing(inner, cap=5.0)(z, y), expected)


def test_it_lends_the_terms_inside_and_the_share_of_saturated_logits_of_counted_rows() -> None:
    z, y = logits(8, 4), torch.tensor([0, 1, -100, 2, 3, -100, 0, 0])
    loss = LogitSquashing(CrossEntropyLoss() + ZLoss(0.01), cap=5.0)
    loss.lent = {}
    value = loss(z, y)
    assert list(loss.lent["terms"]) == ["cross_entropy", "z_loss"]
    torch.testing.assert_close(sum(loss.lent["terms"].values()), value)
    share = soft_cap_saturation(z, cap=5.0)[y != -100].mean()
    torch.testing.assert_close(loss.lent["numbers"]["soft_cap_saturation"], share)
    loss.lent = {}
    soft = F.one_hot(y.clamp(min=0), 4).double()
    loss(z, soft)
    torch.testing.assert_close(loss.lent["numbers"]["soft_cap_saturation"], soft_cap_saturation(z, cap=5.0).mean())


def test_its_numbers_come_out_of_a_sum() -> None:
    loss = LogitSquashing(CrossEntropyLoss(), cap=5.0) + ZLoss(0.01)
    loss.lent = {}
    loss(logits(8, 4), torch.arange(8) % 4)
    assert list(loss.lent["terms"]) == ["logit_squashing", "z_loss"]
    assert list(loss.lent["numbers"]) == ["soft_cap_saturation"]


def test_rows_of_capped_logits_are_not_lent() -> None:
    loss = LogitSquashing(CrossEntropyLoss())
    loss.lent = {}
    loss(torch.zeros(2, 20_000), torch.tensor([1, 2]))
    assert "rows" not in loss.lent


def test_it_is_what_the_loss_inside_is() -> None:
    loss = LogitSquashing(BinaryCrossEntropyWithLogits(ignore_index=-7))
    assert loss.binary
    assert loss.ignore_index == -7
    loss.lent = {}
    loss(torch.full((2, 3), 99.0), torch.ones(2, 3))
    assert loss.lent["numbers"]["soft_cap_saturation"] == 1
    z, t = logits(2, 3), torch.zeros(2, 3)
    distilled = LogitSquashing(DistillationLoss(), cap=5.0)(z, teacher_logits=t)
    torch.testing.assert_close(distilled, DistillationLoss()(soft_cap(z, cap=5.0), teacher_logits=t))


def test_what_is_no_loss_or_no_cap_is_refused() -> None:
    with pytest.raises(TypeError, match="loss must be a LogitLoss, got CrossEntropyLoss"):
        LogitSquashing(torch.nn.CrossEntropyLoss())  # type: ignore[arg-type]
    for cap in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"cap must be > 0, got {cap}"):
            SoftCap(cap)
        with pytest.raises(ValueError, match=f"cap must be > 0, got {cap}"):
            LogitSquashing(CrossEntropyLoss(), cap)
