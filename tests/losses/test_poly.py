import math

import pytest
import torch
import torch.nn.functional as F

from logitwatch.losses import PolyLoss, poly_loss


def logits(seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(30, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, 2.0])
def test_it_is_cross_entropy_and_epsilon_times_one_minus_p(epsilon: float) -> None:
    z = logits().requires_grad_()
    targets = torch.arange(30) % 5
    published = F.cross_entropy(z, targets, reduction="none") + epsilon * (
        1 - z.softmax(-1).gather(1, targets[:, None])[:, 0]
    )
    ours = poly_loss(z, targets, epsilon=epsilon)
    torch.testing.assert_close(ours, published)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), z), torch.autograd.grad(published.sum(), z))


def test_soft_targets_and_weights_are_those_of_the_formula() -> None:
    z, q = logits(), logits(1).softmax(-1)
    weight = torch.linspace(0.5, 2.0, 5, dtype=torch.float64)
    p = z.softmax(-1)
    published = (weight * q * (2 * (1 - p) - p.log())).sum(-1)
    torch.testing.assert_close(poly_loss(z, q, weight=weight), published)
    torch.testing.assert_close(PolyLoss(2.0, weight)(z, q), published.mean())


def test_it_is_two_terms_of_the_series_where_p_is_near_one() -> None:
    z = torch.tensor([[20.0, 0.0]], dtype=torch.float64)
    odds = math.exp(-20)
    assert poly_loss(z, torch.tensor([0]), epsilon=3.0).item() == pytest.approx(4 * odds, rel=1e-8)


@pytest.mark.parametrize("epsilon", [-1.01, math.nan, math.inf])
def test_an_epsilon_that_rewards_doubt_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match=f"epsilon must be >= -1, got {epsilon}"):
        PolyLoss(epsilon)
