import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitwatch.callbacks.cadence import WARMUP, Cadence


def looks(cadence, steps):
    return [step for step in steps if cadence.look(step)]


def warmed(*, budget=0.01, report_every=50, step=0.001, look=0.0001, report=0.0005, rows=None, start=0):
    """A cadence that has seen its warm-up with these costs, and the step at which it was ready."""
    cadence = Cadence(budget=budget, report_every=report_every, rows=rows)
    for now in itertools.count(start):
        cadence.timed_step(step)
        if cadence.look(now):
            cadence.timed_look(look)
            if cadence.report(now):
                cadence.timed_report(report)
                if cadence.ready():
                    return cadence, now
    raise AssertionError("steps never end")


def frozen(**costs):
    cadence, now = warmed(**costs)
    every, rows = cadence.choose()
    cadence.freeze(every, rows, step=now)
    return cadence, now


def run(cadence, steps):
    """Steps looked at and, of these, steps reported."""
    looked = [(step, cadence.report(step)) for step in steps if cadence.look(step)]
    return [step for step, _ in looked], [step for step, due in looked if due]


def test_by_hand_it_looks_at_each_multiple():
    cadence = Cadence(every_n_steps=7)
    assert cadence.frozen
    assert looks(cadence, range(30)) == [0, 7, 14, 21, 28]


@pytest.mark.parametrize("every", [1, 3, 20, 80])
def test_by_hand_a_report_window_holds_whole_looks(every):
    cadence = Cadence(every_n_steps=every, report_every=50)
    seen, reported = run(cadence, range(2000))
    assert seen == list(range(0, 2000, every))
    gaps = {b - a for a, b in itertools.pairwise(reported)}
    assert gaps == {math.ceil(50 / every) * every}


def test_accumulated_micro_batches_share_one_look():
    cadence = Cadence(every_n_steps=2)
    assert [cadence.look(step) for step in (0, 0, 0, 1, 1, 1, 2, 2, 2)] == [True, *[False] * 5, True, False, False]
    chosen = Cadence()
    assert [chosen.look(step) for step in (0, 0, 1, 1, 2, 2, 3, 3)] == [True, False, True, False, True, *[False] * 3]


def test_steps_that_jump_are_still_looked_at():
    # Several optimizers move the count by more than one.
    assert looks(Cadence(every_n_steps=10), range(0, 60, 4)) == [0, 12, 20, 32, 40, 52]


@pytest.mark.parametrize("start", [0, 1000])
def test_the_warm_up_counts_from_the_first_step_seen(start):
    cadence = Cadence()
    assert looks(cadence, range(start, start + 33)) == [start + offset for offset in WARMUP]
    _, now = warmed(start=start)
    assert now == start + WARMUP[-1]


def test_it_is_ready_once_and_only_before_it_is_frozen():
    cadence, now = warmed()
    assert cadence.ready()
    cadence.freeze(20, 64, step=now)
    assert cadence.frozen
    assert not cadence.ready()
    assert not Cadence(every_n_steps=1).ready()


seconds = st.floats(1e-6, 10, allow_nan=False)


@given(
    step=seconds,
    look=seconds,
    report=seconds,
    budget=st.sampled_from([0.001, 0.01, 0.05, 0.5]),
    report_every=st.sampled_from([1, 10, 50, 1000]),
)
def test_looks_and_reports_never_cost_more_than_the_budget(step, look, report, budget, report_every):
    cadence, _ = frozen(step=step, look=look, report=report, budget=budget, report_every=report_every)
    every, window = cadence.every_n_steps, cadence.report_every
    assert window % every == 0
    # What a look costs more where more rows are taken is in proportion to the rows, at most.
    per_look = look * cadence.rows / 64
    assert per_look / every + report / window <= budget * step * (1 + 1e-9) or every >= 10**6


@given(step=seconds, look=seconds, report=seconds)
def test_a_larger_budget_never_looks_less_often(step, look, report):
    small, _ = frozen(step=step, look=look, report=report, budget=0.01)
    large, _ = frozen(step=step, look=look, report=report, budget=0.1)
    assert large.every_n_steps <= small.every_n_steps


def test_rows_grow_only_where_every_step_is_looked_at_and_the_budget_allows():
    assert frozen(step=1.0, look=1e-3, report=1e-5)[0].rows == 512  # 8 times the look is within 1 % of a second
    assert frozen(step=1.0, look=1e-7, report=1e-7)[0].rows == 1024
    assert frozen(step=0.001, look=1e-3)[0].rows == 64
    assert frozen(step=1.0, look=1e-7, report=1e-7, rows=32)[0].rows == 32


def test_the_first_report_and_the_first_looks_are_not_counted():
    cadence = Cadence()
    for step in range(33):
        cadence.timed_step(0.001)
        if cadence.look(step):
            cadence.timed_look(100.0 if step < 2 else 0.0001)
            if cadence.report(step):
                cadence.timed_report(100.0 if step == 8 else 0.0001)
    assert cadence.choose()[0] < 50


def test_after_freezing_looks_fall_on_multiples():
    cadence, now = frozen(step=0.001, look=0.0004, report=0.0006)
    assert (now, cadence.every_n_steps, cadence.report_every) == (32, 100, 100)
    assert run(cadence, range(33, 501)) == ([100, 200, 300, 400, 500], [100, 200, 300, 400, 500])


@pytest.mark.parametrize("stop", [40, 99, 100, 101, 250])
def test_a_restored_cadence_goes_on_as_the_other_would_have(stop):
    whole, _ = frozen(step=0.001, look=0.0004, report=0.0006)
    part, _ = frozen(step=0.001, look=0.0004, report=0.0006)
    expected = run(whole, range(33, 1000))
    before = run(part, range(33, stop))
    restored = Cadence()
    restored.load_state_dict(part.state_dict())
    after = run(restored, range(stop, 1000))
    assert (before[0] + after[0], before[1] + after[1]) == expected
    assert (restored.rows, restored.frozen) == (part.rows, True)


def test_a_cadence_saved_in_its_warm_up_warms_up_anew():
    part = Cadence()
    looks(part, range(10))
    restored = Cadence()
    restored.load_state_dict(part.state_dict())
    assert not restored.frozen
    assert looks(restored, range(10, 43)) == [10 + offset for offset in WARMUP]


def test_what_is_saved_is_plain_numbers():
    for cadence in (Cadence(), Cadence(every_n_steps=3), frozen()[0]):
        assert all(value is None or type(value) is int for value in cadence.state_dict().values())


def windows_with_histograms(cadence, count):
    found = []
    for _ in range(count):
        found.append(cadence.histograms)
        cadence.reported()
    return found


def test_the_first_window_takes_histograms_and_every_fourth():
    assert windows_with_histograms(Cadence(every_n_steps=1), 9) == [True, *[False] * 3, True, *[False] * 3, True]


@pytest.mark.parametrize("windows", range(6))
def test_a_restored_cadence_takes_them_in_the_same_windows(windows):
    cadence, restored = Cadence(every_n_steps=1), Cadence()
    windows_with_histograms(cadence, windows)
    restored.load_state_dict(cadence.state_dict())
    assert windows_with_histograms(restored, 6) == windows_with_histograms(cadence, 6)


def test_nothing_is_timed_for_ever():
    cadence, _ = frozen()
    for _ in range(100):
        cadence.timed_look(1.0)
        cadence.timed_report(1.0)
    assert cadence._looks == cadence._report_times == cadence._steps == []


def test_a_report_interval_below_one_is_one():
    assert Cadence(every_n_steps=1, report_every=0).report_every == 1
