import itertools

import pytest
import torch
from torch import Tensor

from logitwatch.states.rank_cells import RankCells, lower_edges
from logitwatch.states.selective_risk import (
    area_under_generalized_risk,
    area_under_risk,
    area_under_roc,
    risk_coverage,
)


def cells(c: Tensor, right: Tensor) -> RankCells:
    return RankCells.of(c, right, torch.ones_like(right))


def crowded(number: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Confidences as a trained network has them, many to a cell, and right about as often as they say."""
    generator = torch.Generator().manual_seed(seed)
    c = (3 * torch.randn(number, generator=generator, dtype=torch.float64) + 3).abs().sigmoid()
    return c, torch.rand(number, generator=generator) < c - 0.05


def centred(c: Tensor) -> Tensor:
    """Each confidence moved to one that all rows of its cell share."""
    edges = lower_edges(c.device)
    cell = torch.searchsorted(edges, c) - 1
    return (edges[cell] + torch.cat((edges[1:], edges.new_ones(1)))[cell]) / 2


def mean_risk(right: Tensor) -> float:
    """Mean over k of the share wrong among the first k rows."""
    wrong = (~right).double()
    return (wrong.cumsum(0) / torch.arange(1, len(right) + 1)).mean().item()


def generalized(right: Tensor) -> float:
    """Area by trapezoids under the rows wrong among the first k, over all rows, k from 0."""
    wrong = torch.cat((torch.zeros(1), (~right).double().cumsum(0))) / len(right)
    return torch.trapezoid(wrong.double(), dx=1 / len(right)).item()


def sorted_rows(c: Tensor, right: Tensor) -> Tensor:
    return right[c.argsort(descending=True)]


@pytest.mark.parametrize("pattern", [*itertools.product([False, True], repeat=4)])
def test_ties_are_averaged_over_their_orders(pattern: tuple[bool, ...]) -> None:
    # One row above, the four tied ones, one below.
    c = torch.tensor([0.9, 0.7, 0.7, 0.7, 0.7, 0.6], dtype=torch.float64)
    right = torch.tensor([False, *pattern, True])
    orders = [torch.tensor([False, *order, True]) for order in itertools.permutations(pattern)]
    seen = cells(c, right)
    areas = [mean_risk(order) for order in orders]
    assert area_under_risk(seen).value.item() == pytest.approx(sum(areas) / len(orders), abs=1e-14)
    areas = [generalized(order) for order in orders]
    assert area_under_generalized_risk(seen).value.item() == pytest.approx(sum(areas) / len(orders), abs=1e-14)


@pytest.mark.parametrize("number", [1, 10, 1000, 100_000])
def test_areas_are_those_of_the_rows_within_the_certified_error(number: int) -> None:
    for seed in range(5):
        c, right = crowded(number, seed=seed)
        seen, order = cells(c, right), sorted_rows(c, right)
        for found, wanted in (
            (area_under_risk(seen), mean_risk(order)),
            (area_under_generalized_risk(seen), generalized(order)),
        ):
            assert abs(found.value.item() - wanted) <= found.error.item() + 1e-12
            assert found.error.item() < 0.01  # small enough to mean something


def test_the_best_and_the_worst_order_of_a_cell_are_within_what_is_certified() -> None:
    c, right = torch.full((9,), 0.75, dtype=torch.float64), torch.arange(9) < 5
    seen = cells(c, right)
    for order in (right, right.flip(0)):
        assert abs(area_under_risk(seen).value.item() - mean_risk(order)) <= area_under_risk(seen).error.item()
        area = area_under_generalized_risk(seen)
        # Of one cell the bound of a sum linear in the order is reached.
        assert abs(area.value.item() - generalized(order)) == pytest.approx(area.error.item(), abs=1e-14)


@pytest.mark.parametrize("number", [10, 1000, 100_000])
def test_the_roc_is_that_of_all_pairs_of_cells(number: int) -> None:
    c, right = crowded(number)
    tied = centred(c)
    order = tied.argsort()
    ranks = torch.empty_like(c)
    values, inverse, counts = tied[order].unique_consecutive(return_inverse=True, return_counts=True)
    ranks[order] = ((counts.cumsum(0) - counts) + (counts + 1) / 2).double()[inverse]
    hits = right.sum().item()
    wanted = (ranks[right].sum().item() - hits * (hits + 1) / 2) / (hits * (number - hits))
    assert len(values) > 1
    assert area_under_roc(cells(c, right)).value.item() == pytest.approx(wanted, abs=1e-12)  # ranks are exact


def test_the_generalized_area_follows_from_the_roc_and_the_accuracy() -> None:
    c, right = crowded(3000)
    seen, a = cells(c, right), right.double().mean().item()
    wanted = (1 - area_under_roc(seen).value.item()) * a * (1 - a) + (1 - a) ** 2 / 2
    assert area_under_generalized_risk(seen).value.item() == pytest.approx(wanted, rel=1e-12)


def test_areas_of_billions_of_rows_lose_no_digits() -> None:
    c, right = crowded(1000)
    seen = cells(c, right)
    once = area_under_risk(seen).value.item()
    for _ in range(40):
        seen = seen.merge(seen)
    # Between a sum over rows and an integral are terms of 1 / rows: compare with twice as many.
    huge = area_under_risk(seen).value.item()
    assert huge == pytest.approx(area_under_risk(seen.merge(seen)).value.item(), abs=1e-11)
    assert huge == pytest.approx(once, abs=0.01)


def test_the_curve_is_that_of_the_rows_above_each_threshold() -> None:
    c, right = crowded(500)
    curve = risk_coverage(cells(c, right))
    for i in range(0, 3329, 37):
        above = c > curve.threshold[i]
        if curve.threshold[i] <= 0.5:
            above = c >= curve.threshold[i]
        assert curve.coverage[i].item() == pytest.approx(above.double().mean().item(), abs=1e-15)
        risk = (~right[above]).double().mean() if above.any() else torch.tensor(torch.nan).double()
        torch.testing.assert_close(curve.risk[i], risk, rtol=1e-14, atol=0, equal_nan=True)
    assert curve.coverage[-1] == 1
    assert (curve.threshold.diff() <= 0).all()


def test_all_right_or_all_wrong_have_no_roc() -> None:
    c, right = crowded(10)
    for same in (torch.ones_like(right), torch.zeros_like(right)):
        assert area_under_roc(cells(c, same)).value.isnan()
    assert area_under_risk(cells(c, c > 0)).value.item() == 0.0
    assert area_under_risk(cells(c, c < 0)).value.item() == 1.0
    assert area_under_generalized_risk(cells(c, c < 0)).value.item() == 0.5


def test_nothing_seen_has_no_risk() -> None:
    empty = RankCells.empty()
    for area in (area_under_risk, area_under_generalized_risk, area_under_roc):
        assert all(value.isnan() for value in area(empty))
    curve = risk_coverage(empty)
    assert curve.coverage.isnan().all()
    assert curve.risk.isnan().all()
