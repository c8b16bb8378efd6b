"""What all detectors have in common."""

import io
import math
import random
from collections.abc import Callable
from functools import partial

import pytest
import torch
from helpers.noises import gaussian, heavy_tailed
from hypothesis import given, settings
from hypothesis import strategies as st

from logitwatch.drift.detectors import Cusum, EProcess, PageHinkley, RollingZScore
from logitwatch.drift.verdict import Detector, Verdict

Maker = Callable[[], Detector]
DETECTORS: dict[str, Maker] = {
    "Cusum": partial(Cusum, warmup=32),
    "Cusum, both": partial(Cusum, warmup=32, side="both"),
    "Cusum, by hand": partial(Cusum, warmup=32, threshold=20.0),
    "PageHinkley": partial(PageHinkley, warmup=32),
    "RollingZScore": partial(RollingZScore, window=32),
    "EProcess": partial(EProcess, warmup=32),
    "EProcess, both": partial(EProcess, warmup=32, side="both"),
}
every_detector = pytest.mark.parametrize("make", DETECTORS.values(), ids=DETECTORS.keys())


def verdicts(detector: Detector, values: list[float]) -> list[Verdict]:
    return [detector.update(x) for x in values]


def episodes(seed: int) -> list[float]:
    """A warm-up, a spike, a drift, a value that is none, and a fall."""
    values = [3 + 0.05 * x for x in heavy_tailed(300, seed)]
    bumps = [x + 2.0 * (140 <= i < 150) for i, x in enumerate(values)]
    rising = [x + 0.01 * max(0, i - 200) * (i < 240) for i, x in enumerate(bumps)]
    return [*rising[:260], math.nan, *(x - 1 for x in rising[260:])]


def saved_and_loaded(detector: Detector, make: Maker) -> Detector:
    """By way of a checkpoint."""
    file = io.BytesIO()
    torch.save(detector.state_dict(), file)
    file.seek(0)
    again = make()
    again.load_state_dict(torch.load(file, weights_only=True))
    return again


@every_detector
@given(seed=st.integers(0, 1000), cut=st.integers(0, 301))
@settings(max_examples=20)  # each is six hundred updates
def test_a_detector_resumes_exactly_at_any_time(make: Maker, seed: int, cut: int) -> None:
    values = episodes(seed)
    whole, parted = make(), make()
    expected = verdicts(whole, values)
    got = verdicts(parted, values[:cut])
    parted = saved_and_loaded(parted, make)
    got += verdicts(parted, values[cut:])
    assert repr(got) == repr(expected)  # as text, so that infinities and every digit count
    assert parted.state_dict() == whole.state_dict()


@every_detector
def test_a_detector_resumes_in_the_middle_of_an_alarm(make: Maker) -> None:
    values = [*(3 + 0.05 * x for x in gaussian(300, 0)), *[9.0] * 60]
    whole, parted = make(), make()
    expected = verdicts(whole, values)
    first = next(i for i, verdict in enumerate(expected) if i > 299 and verdict.alarm)
    verdicts(parted, values[: first + 1])
    assert verdicts(saved_and_loaded(parted, make), values[first + 1 :]) == expected[first + 1 :]


@every_detector
def test_a_state_is_a_copy(make: Maker) -> None:
    detector = make()
    verdicts(detector, gaussian(100, 1))
    state = detector.state_dict()
    before = repr(state)
    again = make()
    again.load_state_dict(state)
    verdicts(detector, gaussian(100, 2))
    verdicts(again, gaussian(100, 2))
    assert repr(state) == before


@every_detector
@given(
    seed=st.integers(0, 1000),
    unit=st.sampled_from([0.001, 0.5, 3.0, 1000.0]),
    origin=st.sampled_from([-100.0, 0.0, 7.0]),
)
@settings(max_examples=20)
def test_scores_do_not_depend_on_unit_and_origin(make: Maker, seed: int, unit: float, origin: float) -> None:
    values = gaussian(200, seed)
    plain, moved = make(), make()
    for x in values:
        a, b = plain.update(x), moved.update(origin + unit * x)
        # Values near 100 in units of 0.001 are rounded to 1e-11 of a unit; sums over 200 updates lose two digits more.
        assert b.score == pytest.approx(a.score, abs=1e-7)
        assert (a.baseline is None) == (b.baseline is None)
        if a.baseline is not None and b.baseline is not None:
            assert b.baseline == pytest.approx(origin + unit * a.baseline, abs=1e-7 * unit + 1e-9)


@every_detector
def test_the_order_of_values_matters(make: Maker) -> None:
    healthy, spike = gaussian(100, 3), [30.0] * 30
    late, early = verdicts(make(), healthy + spike), verdicts(make(), spike + healthy)
    assert any(verdict.alarm for verdict in late)
    assert not any(verdict.alarm for verdict in early[:30])  # there is nothing yet to compare with


@every_detector
def test_an_alarm_is_a_score_of_one(make: Maker) -> None:
    seen = verdicts(make(), episodes(4))
    assert all(verdict.alarm == (verdict.score >= 1) and verdict.score >= 0 for verdict in seen)
    assert {verdict.alarm for verdict in seen} == {False, True}


@every_detector
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e200, -1e200])
@pytest.mark.parametrize("before", [0, 20, 200])
def test_a_value_that_is_not_finite_is_an_alarm_and_leaves_no_trace(make: Maker, value: float, before: int) -> None:
    detector = make()
    known = [verdict.baseline is not None for verdict in verdicts(detector, gaussian(before, 5))]
    state = detector.state_dict()
    alarm, score, baseline = detector.update(value)
    assert (alarm, score, baseline is None) == (True, math.inf, not any(known))
    assert detector.state_dict() == state


@every_detector
def test_extreme_values_have_finite_scores(make: Maker) -> None:
    draw = random.Random(6)
    values = [draw.choice([0.0, 1e-300, -1e-300, 3e38, -3e38, 1e150, -1e150, 5e-324]) for _ in range(400)]
    assert all(math.isfinite(verdict.score) for verdict in verdicts(make(), values))


@every_detector
def test_a_series_that_never_moved_alarms_when_it_does(make: Maker) -> None:
    detector = make()
    assert not any(verdict.alarm for verdict in verdicts(detector, [0.0] * 200))
    assert any(verdict.alarm for verdict in verdicts(detector, [0.1] * 30))


@every_detector
def test_after_a_reset_a_detector_is_new(make: Maker) -> None:
    detector = make()
    verdicts(detector, episodes(7))
    detector.reset()
    assert repr(verdicts(detector, episodes(8))) == repr(verdicts(make(), episodes(8)))


@every_detector
def test_a_state_does_not_grow(make: Maker) -> None:
    detector = make()
    verdicts(detector, gaussian(200, 9))
    size = len(str(detector.state_dict()).split(","))
    verdicts(detector, gaussian(2000, 10))
    assert len(str(detector.state_dict()).split(",")) == size


@every_detector
def test_a_number_of_torch_is_taken_as_a_float(make: Maker) -> None:
    plain, of_tensors = make(), make()
    verdicts(plain, gaussian(100, 11))
    for x in gaussian(100, 11):
        of_tensors.update(torch.tensor(x, dtype=torch.float64))  # type: ignore[arg-type]
    assert of_tensors.state_dict() == plain.state_dict()
