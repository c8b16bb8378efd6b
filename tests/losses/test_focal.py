import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitwatch.losses import (
    DualFocalLoss,
    FocalLoss,
    ScheduledFocalLoss,
    dual_focal_loss,
    focal_loss,
    scheduled_focal_loss,
)
from logitwatch.losses.focal import focal_of_odds, scheduled_gamma

ABSENT = float("-inf")


def batch(rows: int = 40, classes: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (rows,), generator=generator)


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(value.sum(), logits)
    return result


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_it_is_the_published_formula(gamma: float) -> None:
    logits, targets = batch()
    z = logits.requires_grad_()
    log_p = z.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    published = -((1 - log_p.exp()) ** gamma) * log_p
    ours = focal_loss(z, targets, gamma=gamma)
    # 1 - p cancels in the published one, down to 1e-6 here
    torch.testing.assert_close(ours, published, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient(ours, z), gradient(published, z), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_soft_targets_are_the_mean_over_classes(gamma: float) -> None:
    logits, _ = batch()
    q = batch(seed=1)[0].softmax(-1)
    p = logits.softmax(-1)
    torch.testing.assert_close(
        focal_loss(logits, q, gamma=gamma), -(q * (1 - p) ** gamma * p.log()).sum(-1), rtol=1e-9, atol=1e-12
    )


def test_gamma_zero_is_torchs_cross_entropy() -> None:
    logits, targets = batch()
    weight = torch.linspace(0.1, 2.0, 6)
    ours = FocalLoss(0.0, weight)(logits, targets)
    torch.testing.assert_close(ours, F.cross_entropy(logits, targets, weight.double()))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("row", [[60.0, 0.0, 0.0], [1e4, 0.0, 0.0], [1e30, 0.0, -1e30], [1.0, ABSENT, ABSENT]])
def test_a_probability_of_one_has_a_finite_gradient(gamma: float, row: list[float]) -> None:
    z = torch.tensor([row], requires_grad=True)
    value = focal_loss(z, torch.tensor([0]), gamma=gamma)
    assert 0 <= value.item() < 1e-20
    assert gradient(value, z).isfinite().all()
    soft = focal_loss(z, torch.tensor([[0.9, 0.1, 0.0]]), gamma=gamma)
    assert gradient(soft, z).isfinite().all() or row[1] == ABSENT


def test_a_certain_row_keeps_its_digits() -> None:
    value = focal_loss(torch.tensor([[60.0, 0.0, 0.0]]), torch.tensor([0]), gamma=0.5).item()
    odds = 2 * math.exp(-60)
    # Through 1 - p this is 0: p rounds to 1 from 17 on in float32.
    assert value == pytest.approx(odds**1.5, rel=1e-5)


def test_an_absent_target_is_infinite_with_a_gradient_that_is_not_nan() -> None:
    z = torch.tensor([[0.0, ABSENT]], requires_grad=True)
    value = focal_loss(z, torch.tensor([1]), gamma=0.5)
    assert value.item() == math.inf
    assert not gradient(value, z).isnan().any()


@given(st.floats(-700, 700), st.floats(0, 8))
def test_the_loss_of_odds_falls_as_they_do_and_never_below_zero(against: float, gamma: float) -> None:
    low, high = focal_of_odds(torch.tensor([against, against + 1.0], dtype=torch.float64), gamma)
    assert 0 <= low <= high


def test_a_gamma_for_each_row_is_that_of_the_row() -> None:
    logits, targets = batch(3)
    rows = focal_loss(logits, targets, gamma=torch.tensor([0.0, 1.0, 2.0]))
    for i in range(3):
        torch.testing.assert_close(rows[i], focal_loss(logits, targets, gamma=float(i))[i])


def test_flsd_53_is_the_loop_of_its_authors() -> None:
    logits, targets = batch(200)
    z = logits.requires_grad_()
    losses = []
    for row, y in zip(z, targets, strict=True):
        p = row.softmax(-1)[y]
        exponent = 5.0 if p.item() < 0.2 else 3.0
        losses.append(-((1 - p) ** exponent) * p.log())
    published = torch.stack(losses)
    ours = scheduled_focal_loss(z, targets)
    torch.testing.assert_close(ours, published, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient(ours, z), gradient(published, z), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(ScheduledFocalLoss(reduction="sum")(logits, targets), published.sum())


def test_a_schedule_has_any_number_of_steps_and_each_bound_begins_the_next() -> None:
    p = torch.tensor([0.0, 0.2, 0.3, 0.5, 1.0], requires_grad=True)
    gamma = scheduled_gamma(p, gammas=[5.0, 3.0, 0.0], bounds=[0.2, 0.5])
    assert gamma.tolist() == [5.0, 3.0, 3.0, 0.0, 0.0]
    assert not gamma.requires_grad


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
def test_dual_focal_is_the_code_of_its_authors(gamma: float) -> None:
    logits, targets = batch()
    z = logits.requires_grad_()
    p = z.softmax(-1)
    p_y = p.gather(1, targets[:, None])
    p_j = torch.topk((p < p_y) * p, 1)[0]  # 0 where none is below
    published = -((1 - p_y + p_j) ** gamma * p_y.log())[:, 0]
    ours = dual_focal_loss(z, targets, gamma=gamma)
    torch.testing.assert_close(ours, published, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient(ours, z), gradient(published, z), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("row", [[60.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, ABSENT, ABSENT], [-1e30, 0.0, 1e30]])
def test_dual_focal_has_finite_gradients(row: list[float]) -> None:
    for dtype in (torch.float32, torch.float64):
        z = torch.tensor([row], requires_grad=True, dtype=dtype)
        value = dual_focal_loss(z, torch.tensor([0]), gamma=0.5)
        assert value.isfinite()
        assert gradient(value, z).isfinite().all()


def test_dual_focal_of_an_absent_target_is_infinite() -> None:
    assert dual_focal_loss(torch.tensor([[0.0, 1.0, ABSENT]]), torch.tensor([2]), gamma=0.5).item() == math.inf


def test_dual_focal_takes_no_probabilities() -> None:
    with pytest.raises(TypeError, match=r"DualFocalLoss takes class indices, got probabilities of shape \(2, 3\)"):
        DualFocalLoss()(torch.zeros(2, 3), torch.full((2, 3), 1 / 3))


@pytest.mark.parametrize("loss", [FocalLoss, DualFocalLoss])
@pytest.mark.parametrize("gamma", [-0.1, math.nan, math.inf])
def test_a_gamma_below_zero_is_refused(loss: type[FocalLoss], gamma: float) -> None:
    with pytest.raises(ValueError, match=f"gamma must be >= 0, got {gamma}"):
        loss(gamma)


@pytest.mark.parametrize(
    ("gammas", "bounds", "message"),
    [
        ([1.0], [0.5], "one exponent more than bounds, got 1 and 1"),
        ([], [], "one exponent more than bounds, got 0 and 0"),
        ([1.0, -2.0], [0.5], "gamma must be >= 0, got -2.0"),
        ([1.0, 2.0, 3.0], [0.5, 0.5], r"must ascend in \(0, 1\), got \[0.5, 0.5\]"),
        ([1.0, 2.0], [0.0], r"must ascend in \(0, 1\), got \[0.0\]"),
        ([1.0, 2.0], [1.0], r"must ascend in \(0, 1\), got \[1.0\]"),
    ],
)
def test_a_schedule_that_is_none_is_refused(gammas: list[float], bounds: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScheduledFocalLoss(gammas, bounds)
