import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from logitwatch.losses import BalancedSoftmax, LogitAdjustedCrossEntropy, log_prior, logit_adjusted_cross_entropy

COUNTS = [500.0, 50.0, 5.0]


def batch(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return z.requires_grad_(), torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 2, 2)])
def test_it_is_cross_entropy_of_logits_and_tau_times_the_log_prior(tau: float, shape: tuple[int, ...]) -> None:
    z, targets = batch(*shape)
    prior = torch.tensor(COUNTS, dtype=torch.float64) / 555
    published = F.cross_entropy(z + tau * prior.log().view(3, *[1] * (len(shape) - 2)), targets)
    ours = LogitAdjustedCrossEntropy(COUNTS, tau)(z, targets)
    # the prior is kept in float32
    torch.testing.assert_close(ours, published, rtol=1e-6, atol=0)
    ours_gradient, published_gradient = torch.autograd.grad(ours, z)[0], torch.autograd.grad(published, z)[0]
    torch.testing.assert_close(ours_gradient, published_gradient, rtol=1e-5, atol=1e-8)


def test_the_function_and_the_module_agree_on_weights_and_soft_targets() -> None:
    z, targets = batch(8, 3)
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    for y in (targets, z.detach().flip(1).softmax(1)):
        rows = logit_adjusted_cross_entropy(z, y, log_prior(COUNTS), tau=1.5, weight=weight)
        torch.testing.assert_close(LogitAdjustedCrossEntropy(COUNTS, 1.5, weight, reduction="none")(z, y), rows)


def test_balanced_softmax_is_that_of_the_counts() -> None:
    z, targets = batch(8, 3)
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    weighted = counts * z.exp()
    published = -(weighted / weighted.sum(1, keepdim=True)).log().gather(1, targets[:, None]).mean()
    torch.testing.assert_close(BalancedSoftmax(COUNTS)(z, targets), published, rtol=1e-6, atol=0)
    assert torch.equal(BalancedSoftmax(COUNTS)(z, targets), LogitAdjustedCrossEntropy(COUNTS)(z, targets))


def test_trained_on_a_long_tail_it_predicts_as_if_classes_were_balanced() -> None:
    # One feature that says nothing: the best logits under cross-entropy are the prior, here they are even.
    targets = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS).long())
    bias = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = LogitAdjustedCrossEntropy(COUNTS)(bias.expand(555, 3), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert bias.detach().softmax(0).tolist() == pytest.approx([1 / 3] * 3, abs=1e-3)  # where the search stops


def test_the_adjustment_and_the_weight_are_in_the_state() -> None:
    loss = LogitAdjustedCrossEntropy(COUNTS, 2.0, [1.0, 1.0, 2.0])
    assert list(loss.state_dict()) == ["adjustment", "cross_entropy.weight"]
    torch.testing.assert_close(loss.adjustment, 2 * log_prior(COUNTS))
    assert list(BalancedSoftmax(COUNTS).state_dict()) == ["adjusted.adjustment"]


def test_rows_of_adjusted_logits_are_not_lent() -> None:
    loss = LogitAdjustedCrossEntropy([1.0] * 20_000)
    loss.lent = {}
    loss(torch.zeros(2, 20_000), torch.tensor([1, 2]))
    assert list(loss.lent) == ["terms"]


def test_counts_of_any_size_and_type_are_taken() -> None:
    torch.testing.assert_close(log_prior(torch.tensor([3, 1])), log_prior([3e300, 1e300]))


@pytest.mark.parametrize(("count", "got"), [(0.0, "0.0"), (-1.0, "-1.0"), (math.nan, "nan"), (math.inf, "inf")])
def test_a_class_without_a_count_is_refused_by_name(count: float, got: str) -> None:
    with pytest.raises(ValueError, match=f"class_counts must be > 0, got {got} for class 1"):
        LogitAdjustedCrossEntropy([2.0, count, 1.0])


@pytest.mark.parametrize("counts", [[], [[1.0, 2.0]]])
def test_counts_are_one_a_class(counts: list[float]) -> None:
    with pytest.raises(ValueError, match="one entry for each class, got shape"):
        BalancedSoftmax(counts)


def test_a_tau_that_is_not_finite_and_logits_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="tau must be finite, got nan"):
        LogitAdjustedCrossEntropy(COUNTS, math.nan)
    with pytest.raises(ValueError, match="expected 3 classes, as many as class_counts has, got 4"):
        LogitAdjustedCrossEntropy(COUNTS)(torch.zeros(2, 4), torch.tensor([0, 1]))
