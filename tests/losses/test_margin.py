import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from logitwatch.losses import MarginLabelSmoothing, margin_label_smoothing
from logitwatch.losses.margin import margin_excess

ABSENT = float("-inf")


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = 8 * torch.randn(20, 6, generator=generator, dtype=torch.float64)
    return z.requires_grad_(), torch.randint(0, 6, (20,), generator=generator)


def published(z: Tensor, targets: Tensor, margin: float, alpha: float) -> Tensor:
    """The code of the authors, whose mean is over rows and classes."""
    diff = z.max(dim=1).values.unsqueeze(1).repeat(1, z.shape[1]) - z
    return F.cross_entropy(z, targets) + alpha * F.relu(diff - margin).mean()


@pytest.mark.parametrize(("margin", "alpha"), [(10.0, 0.1), (0.0, 1.0), (3.0, 0.0)])
def test_it_is_the_code_of_its_authors(margin: float, alpha: float) -> None:
    z, targets = batch()
    ours, theirs = MarginLabelSmoothing(margin, alpha)(z, targets), published(z, targets, margin, alpha)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z))


def test_the_defaults_are_a_margin_of_ten_and_a_tenth() -> None:
    loss = MarginLabelSmoothing()
    assert (loss.margin, loss.alpha) == (10.0, 0.1)


def test_an_ignored_row_has_no_penalty() -> None:
    z, targets = batch()
    kept = torch.arange(20) % 3 > 0
    torch.testing.assert_close(
        MarginLabelSmoothing()(z, targets.masked_fill(~kept, -100)), published(z[kept], targets[kept], 10.0, 0.1)
    )


def test_a_weight_is_of_the_row_its_penalty_included() -> None:
    z, targets = batch()
    weight = torch.linspace(0.5, 3.0, 6, dtype=torch.float64)
    plain = margin_label_smoothing(z, targets, margin=2.0)
    torch.testing.assert_close(margin_label_smoothing(z, targets, margin=2.0, weight=weight), weight[targets] * plain)
    one_hot = F.one_hot(targets, 6).double()
    soft = 0.5 * one_hot + 0.5 * one_hot.roll(1, 1)
    mixed = margin_label_smoothing(z.T, soft.T, margin=2.0, weight=weight, dim=0)
    other = weight[targets.add(1) % 6] * margin_label_smoothing(z, targets.add(1) % 6, margin=2.0)
    torch.testing.assert_close(mixed, 0.5 * weight[targets] * plain + 0.5 * other)


def test_an_absent_class_is_no_logit_far_behind() -> None:
    z = torch.tensor([[0.0, ABSENT, -12.0], [ABSENT, ABSENT, ABSENT]])
    assert margin_excess(z).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("name", ["margin", "alpha"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_what_must_not_be_negative_is_not(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be >= 0, got {value}"):
        MarginLabelSmoothing(**{name: value})
