import math

import pytest
import torch
from torch import Tensor

from logitwatch.functional.scores import (
    brier_score,
    class_log_odds,
    log_odds,
    logit_margin,
    logit_norm,
    nll,
    scale_by_temperature,
    target_log_odds,
    target_rank,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_margin_is_between_the_two_largest_on_any_axis() -> None:
    z = normal(4, 5, 6)
    top = z.sort(1, descending=True).values
    assert torch.equal(logit_margin(z, dim=1), top[:, 0] - top[:, 1])


@pytest.mark.parametrize("z", [[torch.nan, 0.0], [torch.nan]])
def test_the_margin_of_nan_is_nan(z: list[float]) -> None:
    assert logit_margin(torch.tensor(z)).isnan()


def test_one_present_class_has_an_infinite_margin() -> None:
    assert logit_margin(torch.tensor([3.0, -torch.inf])).item() == math.inf


def test_a_single_class_has_one_infinite_margin_a_row() -> None:
    assert logit_margin(torch.zeros(3, 1)).tolist() == [math.inf] * 3


def test_the_norm_is_of_present_classes() -> None:
    assert logit_norm(torch.tensor([[3.0, -4.0, -torch.inf]])).tolist() == [5.0]
    assert logit_norm(torch.tensor([torch.inf, 0.0])).item() == math.inf


def test_the_nll_is_torchs_for_indices_and_for_probabilities() -> None:
    z, q = normal(8, 5), normal(8, 5, seed=1).softmax(-1)
    y = torch.arange(8) % 5
    torch.testing.assert_close(nll(z, y), torch.nn.functional.cross_entropy(z, y, reduction="none"))
    torch.testing.assert_close(nll(z, q), torch.nn.functional.cross_entropy(z, q, reduction="none"))


def test_the_nll_takes_classes_on_any_axis() -> None:
    z, y = normal(4, 5, 6), torch.arange(24).reshape(4, 6) % 5
    torch.testing.assert_close(nll(z, y, dim=1), torch.nn.functional.cross_entropy(z, y, reduction="none"))


def test_no_probability_of_an_absent_class_costs_nothing_and_some_costs_infinitely_much() -> None:
    z = torch.tensor([[0.0, -torch.inf]])
    assert nll(z, torch.tensor([[1.0, 0.0]])).item() == 0.0
    assert nll(z, torch.tensor([[0.9, 0.1]])).item() == math.inf
    assert nll(z, torch.tensor([1])).item() == math.inf


def test_a_certain_and_right_prediction_has_a_score_of_positive_zero() -> None:
    loss = nll(torch.tensor([[0.0, -torch.inf]]), torch.tensor([0]))
    assert math.copysign(1, loss.item()) == 1.0


def test_the_brier_score_of_an_index_is_that_of_its_one_hot() -> None:
    z, y = normal(8, 5), torch.arange(8) % 5
    one_hot = torch.nn.functional.one_hot(y, 5)
    torch.testing.assert_close(brier_score(z, y), brier_score(z, one_hot.float()), rtol=1e-5, atol=1e-6)


def test_the_brier_score_reaches_both_ends_of_its_range() -> None:
    z = torch.tensor([[200.0, 0.0]])
    assert brier_score(z, torch.tensor([0])).item() == 0.0
    assert brier_score(z, torch.tensor([1])).item() == 2.0


@pytest.mark.parametrize("score", [logit_margin, logit_norm, log_odds])
def test_scores_of_the_prediction_take_classes_on_any_axis(score) -> None:
    z = normal(4, 5, 6)
    torch.testing.assert_close(score(z, dim=1), score(z.movedim(1, -1)))


@pytest.mark.parametrize("score", [nll, brier_score, target_rank])
def test_scores_of_a_target_take_classes_on_any_axis(score) -> None:
    z, y = normal(4, 5, 6), torch.arange(24).reshape(4, 6) % 5
    found = score(z, y, dim=1)
    assert found.shape == y.shape
    torch.testing.assert_close(found, score(z.movedim(1, -1), y))


@pytest.mark.parametrize("score", [nll, brier_score])
def test_probabilities_lie_on_the_axis_of_the_classes(score) -> None:
    z, q = normal(4, 5, 6), normal(4, 5, 6, seed=1).softmax(1)
    torch.testing.assert_close(score(z, q, dim=1), score(z.movedim(1, -1), q.movedim(1, -1)))


def test_the_log_odds_are_of_the_most_likely_class_against_the_rest() -> None:
    z = normal(50, 7).double()
    p = z.softmax(-1).amax(-1)
    torch.testing.assert_close(log_odds(z), torch.log(p / (1 - p)))


def test_the_log_odds_of_a_tie_are_against_all_other_classes() -> None:
    assert log_odds(torch.zeros(5)).item() == pytest.approx(-math.log(4), rel=1e-6)


def test_the_log_odds_do_not_saturate_and_are_infinite_for_one_present_class() -> None:
    # A confidence of 1 - 1e-44 is 1 in any floating type.
    assert log_odds(torch.tensor([101.0, 0.0])).item() == 101.0
    assert log_odds(torch.tensor([3.0, -torch.inf])).item() == math.inf


def test_the_log_odds_of_each_class_are_its_formula_and_those_of_it_as_a_target() -> None:
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = z.softmax(-1)
    torch.testing.assert_close(class_log_odds(z), torch.log(p / (1 - p)))
    for k in range(5):
        torch.testing.assert_close(target_log_odds(z, torch.full((6,), k)), class_log_odds(z)[:, k])
    torch.testing.assert_close(class_log_odds(z.view(2, 3, 5).mT, dim=1), class_log_odds(z).view(2, 3, 5).mT)


@pytest.mark.parametrize("row", [[500.0, 0.0, 0.0], [1e30, -1e30, 0.0], [2.0, -torch.inf, 0.0], [2.0, -torch.inf]])
@pytest.mark.parametrize("shift", [0.0, 4096.0])
def test_the_log_odds_of_a_class_keep_their_digits_where_it_is_certain(row: list[float], shift: float) -> None:
    z = torch.tensor(row) + shift
    exact = [z[k].double() - torch.logsumexp(torch.cat((z[:k], z[k + 1 :])).double(), 0) for k in range(len(row))]
    wanted = torch.stack(exact).float()
    torch.testing.assert_close(class_log_odds(z), wanted)
    every = torch.arange(len(row))
    torch.testing.assert_close(target_log_odds(z.expand(len(row), -1), every), wanted)


def test_the_log_odds_of_a_class_have_the_gradient_of_finite_differences_and_no_nan() -> None:
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(class_log_odds, z)
    assert torch.autograd.gradcheck(lambda x: target_log_odds(x, torch.tensor([0, 3, 1])), z)
    certain = torch.tensor([60.0, 0.0, 0.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(class_log_odds(certain).sum(), certain)
    assert gradient.isfinite().all()
    alone = torch.tensor([[1.0, -torch.inf], [0.0, 50.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(target_log_odds(alone, torch.tensor([0, 1])).clamp(max=99.0).sum(), alone)
    assert gradient.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


def test_the_rank_counts_classes_that_score_strictly_higher() -> None:
    z = torch.tensor([[3.0, 3.0, 5.0, -torch.inf]])
    assert [target_rank(z, torch.tensor([k])).item() for k in range(4)] == [1, 1, 0, 3]


def test_a_temperature_divides_one_for_all_or_one_each() -> None:
    z = normal(3, 4)
    assert torch.equal(scale_by_temperature(z, 2.0), z / 2)
    assert torch.equal(scale_by_temperature(z, torch.tensor(2.0)), z / 2)
    each = torch.tensor([1.0, 2.0, 4.0])
    assert torch.equal(scale_by_temperature(z, each), z / each[:, None])
    along = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert torch.equal(scale_by_temperature(z, along, dim=0), z / along)
    deep = normal(2, 3, 4)
    assert torch.equal(scale_by_temperature(deep, torch.tensor(2.0), dim=1), deep / 2)


@pytest.mark.parametrize("temperature", [0.25, 1.0])
def test_a_temperature_of_one_or_below_is_a_temperature(temperature: float) -> None:
    z = normal(3, 4)
    assert torch.equal(scale_by_temperature(z, temperature), z / temperature)


def test_half_precision_is_lifted_before_it_is_divided() -> None:
    assert scale_by_temperature(torch.ones(2, dtype=torch.float16), 3.0).dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be > 0"):
        scale_by_temperature(torch.zeros(2), temperature)


@pytest.mark.parametrize("score", [nll, brier_score])
@pytest.mark.parametrize("targets", [torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.zeros(3, 4)])
def test_targets_of_another_shape_are_refused(score, targets: Tensor) -> None:
    with pytest.raises(ValueError, match=r"targets must be integer of shape \(3,\) or probabilities of shape \(3, 5\)"):
        score(torch.zeros(3, 5), targets)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_numbers_of_the_same_values_in_float32(dtype: torch.dtype) -> None:
    z, y = normal(8, 5).to(dtype), torch.arange(8) % 5
    for score in (nll, brier_score, target_rank):
        assert torch.equal(score(z, y), score(z.float(), y))
    for quantity in (log_odds, logit_margin, logit_norm):
        assert torch.equal(quantity(z), quantity(z.float()))
