import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import rel_entr, softmax
from torch import Tensor

from logitwatch.losses import CrossEntropyLoss, DistillationLoss, ZLoss, distillation_loss

ABSENT = float("-inf")


def logits(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_it_is_scipys_relative_entropy_of_the_softened_predictions(temperature: float) -> None:
    z, t = logits(9, 5), logits(9, 5, seed=1)
    p, q = softmax(t.numpy() / temperature, axis=1), softmax(z.numpy() / temperature, axis=1)
    expected = temperature**2 * rel_entr(p, q).sum(1)
    np.testing.assert_allclose(distillation_loss(z, t, temperature=temperature), expected, rtol=1e-9)


def test_it_is_torchs_divergence_by_batchmean_and_its_gradient_the_difference_of_predictions() -> None:
    z, t = logits(9, 5).requires_grad_(), logits(9, 5, seed=1)
    value = DistillationLoss(4.0)(z, teacher_logits=t)
    q, p = (z / 4).log_softmax(-1), (t / 4).log_softmax(-1)
    torch.testing.assert_close(value, 16 * F.kl_div(q, p, log_target=True, reduction="batchmean"))
    (gradient,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(gradient, 4 * (q.exp() - p.exp()).detach() / 9)


def test_a_hot_teacher_is_matched_logit_by_logit() -> None:
    # Hinton et al.: at high temperature the loss is half the mean squared distance of centred logits.
    z, t = logits(9, 5), logits(9, 5, seed=1)
    centred = (z - z.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    expected = 0.5 * centred.square().mean(1)
    torch.testing.assert_close(distillation_loss(z, t, temperature=1e4), expected, rtol=1e-3, atol=1e-3)  # 1 / T


def test_no_gradient_reaches_the_teacher() -> None:
    z, t = logits(3, 5).requires_grad_(), logits(3, 5, seed=1).requires_grad_()
    DistillationLoss()(z, teacher_logits=t).backward()
    assert t.grad is None
    assert z.grad is not None


def test_a_student_that_agrees_costs_nothing() -> None:
    z = logits(3, 5)
    torch.testing.assert_close(distillation_loss(z + 7, z), torch.zeros(3, dtype=torch.float64))


def test_a_class_the_teacher_lacks_adds_nothing_and_one_the_student_lacks_is_infinite() -> None:
    z = torch.tensor([[0.0, 0.0, ABSENT]], requires_grad=True)
    both = distillation_loss(z, torch.tensor([[1.0, 0.0, ABSENT]]))
    (gradient,) = torch.autograd.grad(both, z)
    assert both.isfinite()
    assert gradient.isfinite().all()
    assert distillation_loss(z, torch.tensor([[1.0, 0.0, 0.0]])).item() == math.inf
    teacher_only = distillation_loss(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, ABSENT]]), temperature=1.0)
    assert teacher_only.item() == pytest.approx(math.log(1.5))


def test_a_sum_hands_the_teacher_to_the_term_that_wants_it() -> None:
    z, t, y = logits(4, 5), logits(4, 5, seed=1), torch.tensor([0, 1, -100, 3])
    loss = 0.3 * CrossEntropyLoss() + 0.7 * DistillationLoss(2.0) + ZLoss(0.1)
    assert loss.further_inputs == ("teacher_logits",)
    kept = torch.tensor([0, 1, 3])
    expected = (
        0.3 * F.cross_entropy(z, y)
        + 0.7 * distillation_loss(z, t, temperature=2.0)[kept].mean()
        + 0.1 * z[kept].logsumexp(1).square().mean()
    )
    torch.testing.assert_close(loss(z, y, teacher_logits=t), expected)


def test_what_the_teacher_says_of_an_ignored_row_goes_nowhere() -> None:
    z, t, y = logits(3, 5).requires_grad_(), logits(3, 5, seed=1), torch.tensor([0, -100, 2])
    t[1] = math.nan
    value = DistillationLoss()(z, y, teacher_logits=t)
    torch.testing.assert_close(value, distillation_loss(z, t)[[0, 2]].mean())
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient[1].tolist() == [0.0] * 5


def test_a_teacher_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shaped as logits, \(2, 3\), got \(2, 4\)"):
        DistillationLoss()(torch.zeros(2, 3), teacher_logits=torch.zeros(2, 4))
    with pytest.raises(TypeError, match=r"logits must be floating point, got torch\.int64"):
        DistillationLoss()(torch.zeros(2, 3), teacher_logits=torch.zeros(2, 3, dtype=torch.long))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be > 0, got {temperature}"):
        DistillationLoss(temperature)
