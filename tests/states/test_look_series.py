import math

import pytest
import torch

from logitwatch.functional.row_statistics import row_statistics
from logitwatch.states.look_series import PLACES, LookSeries

Z = torch.tensor([[2.0, 0.0, -3.0], [1.0, 1.0, 0.0], [0.0, float("nan"), 0.0], [-9.0, 0.0, 1.0]])
Y = torch.tensor([0, -100, 1, 2])
ROWS = row_statistics(Z, Y)
EVERY = torch.ones(4, dtype=torch.bool)


def test_a_look_is_the_mean_of_its_finite_rows():
    (look,) = LookSeries.of(ROWS, EVERY, place=3).looks()
    z = Z[[0, 1, 3]].double()
    p = z.softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    assert look.log_partition == pytest.approx(z.logsumexp(-1).mean().item(), rel=1e-6)  # float32 rows
    assert look.entropy == pytest.approx(entropy.mean().item(), rel=1e-6)
    nll = -p.log()[[0, 2], [0, 2]]
    assert look.nll == pytest.approx(nll.mean().item(), rel=1e-6)
    assert look.overconfidence == pytest.approx((nll - entropy[[0, 2]]).mean().item(), rel=1e-6)
    assert look.absmax == 9.0


def test_the_largest_magnitude_may_be_of_more_rows():
    (look,) = LookSeries.of(ROWS, EVERY, place=0, absmax=torch.tensor([3.0, 50.0, -torch.inf])).looks()
    assert look.absmax == 50.0


def test_looks_come_in_the_order_of_their_steps_also_where_places_went_round():
    steps = [PLACES - 2, PLACES - 1, PLACES, PLACES + 5]
    parts = [LookSeries.of(row_statistics(torch.tensor([[float(step), 0.0]])), EVERY[:1], place=step) for step in steps]
    merged = LookSeries.empty()
    for part in reversed(parts):
        merged = merged.merge(part)
    assert [look.absmax for look in merged.looks(steps[0])] == steps
    assert [look.absmax for look in merged.looks(0)] == [*steps[2:], *steps[:2]]


def test_rows_weigh_alike_in_the_mean_of_all_looks():
    one = LookSeries.of(row_statistics(torch.tensor([[2.0, 0.0]] * 3)), EVERY[:3], place=0)
    other = LookSeries.of(row_statistics(torch.tensor([[6.0, 0.0]])), EVERY[:1], place=1)
    expected = (3 * math.log(1 + math.exp(2)) + math.log(1 + math.exp(6))) / 4
    assert one.merge(other).mean().log_partition == pytest.approx(expected, rel=1e-6)
    assert one.merge(other).mean().absmax == 6.0
    assert math.isnan(one.mean().nll)


def test_a_look_without_a_row_that_counts_is_none():
    assert LookSeries.of(ROWS, ~EVERY, place=0).looks() == []
    assert LookSeries.of(row_statistics(Z[:0]), EVERY[:0], place=0).looks() == []
    assert LookSeries.empty().looks() == []
