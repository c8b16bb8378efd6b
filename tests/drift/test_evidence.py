import math
from typing import Any

import pytest
from helpers.noises import gaussian, heavy_tailed

from logitwatch.drift.baseline import Baseline
from logitwatch.drift.evidence import Evidence, signs_of


def started(values: list[float], **options: Any) -> Evidence:
    evidence = Evidence(options.pop("side", "up"), options.pop("allowance", 1.0), options.pop("false_alarms", 1e-4))
    evidence.start(Baseline.of(values))
    return evidence


def test_a_threshold_by_hand_is_kept_whatever_comes() -> None:
    evidence = Evidence("up", 1.0, 1e-4, 20.0)
    evidence.start(Baseline.of(heavy_tailed(128, 0)))
    for z in heavy_tailed(1000, 1):
        evidence.add(z)
    assert evidence.threshold == 20.0


def test_the_threshold_of_gaussian_noise_is_near_that_of_its_budget_alone() -> None:
    evidence = started(gaussian(512, 2))
    for z in gaussian(20_000, 3):
        evidence.add(z)
    # ln(10,000) / 1.5 = 6.1, and the largest of 20,000 Gaussians, 4.1 and seldom over 5, less one.
    assert 8 < evidence.threshold < 10.5


def test_heavy_tails_raise_the_threshold_beyond_their_largest() -> None:
    evidence, largest = started(heavy_tailed(512, 4)), 0.0
    for z in heavy_tailed(20_000, 5):
        if evidence.add(z) < 1:
            largest = max(largest, abs(z))
    assert evidence.outlier > 1.5 * largest > 15
    assert evidence.add(1.5 * largest) < 1 <= evidence.add(4 * largest)


def test_several_deviations_that_are_outliers_each_are_an_alarm_whatever_there_was_before() -> None:
    evidence = started(gaussian(512, 9))
    for _ in range(8):  # each is the largest so far and no alarm
        evidence.add(evidence.outlier)
        for _ in range(30):
            evidence.add(0.0)
    assert evidence.outlier > 100
    # Four terms of ln(10,000) / 1.5 are 24.6, and each of these adds seven.
    assert [evidence.add(9.0) >= 1 for _ in range(4)] == [False, False, False, True]


def test_a_smaller_budget_has_a_higher_threshold() -> None:
    values = heavy_tailed(512, 6)
    thresholds = [started(values, false_alarms=rate).outlier for rate in (1e-3, 1e-4, 1e-5)]
    assert thresholds == sorted(set(thresholds))
    assert started(values, side="both").outlier == started(values, false_alarms=5e-5).outlier


def test_one_side_is_deaf_to_the_other() -> None:
    up, down, both = (Evidence(side, 1.0, 1e-4, 5.0) for side in ("up", "down", "both"))
    scores = [(up.add(z), down.add(z), both.add(z)) for z in (3.0, 3.0, -9.0)]
    assert scores == [(0.4, 0.0, 0.4), (0.8, 0.0, 0.8), (0.0, 1.6, 1.6)]


def test_evidence_does_not_pile_up_and_ends_after_its_cause() -> None:
    evidence = Evidence("up", 1.0, 1e-4, 5.0)
    assert evidence.add(1e6) == 2.0
    assert not evidence.is_over(100)
    scores = [evidence.add(0.0) for _ in range(10)]
    assert scores == [pytest.approx(2 - 0.2 * i) for i in range(1, 11)]
    assert evidence.is_over(100)


def test_an_alarm_that_lasts_is_over_at_the_longest() -> None:
    evidence = Evidence("up", 1.0, 1e-4, 5.0)
    over = []
    for _ in range(12):
        evidence.add(8.0)
        over.append(evidence.is_over(10))
    assert over == [False] * 10 + [True] * 2


def test_what_is_an_alarm_does_not_raise_the_threshold() -> None:
    evidence = started(gaussian(512, 7))
    before = evidence.threshold
    evidence.add(1000.0)
    assert evidence.threshold == pytest.approx(before, abs=0.01)


def test_an_accident_in_the_warm_up_does_not_make_blind() -> None:
    values = gaussian(128, 8)
    values[0] = 1e4
    # Eight scales, less the allowance, and as much again as that exceeds sqrt(2 ln 128) + 0.5.
    assert started(values).outlier < math.log(1e4) / 1.5 + 7 + 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("up", 0.0, 1e-4), "allowance must be > 0, got 0.0"),
        (("up", 1.0, 1.0), "false_alarms is a rate between 0 and 1, got 1.0"),
        (("up", 1.0, 1e-4, -1.0), "threshold must be > 0, got -1.0"),
        (("left", 1.0, 1e-4), "side must be one of up, down, both, got 'left'"),
    ],
)
def test_bad_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evidence(*arguments)


def test_the_sides_have_their_signs() -> None:
    assert (signs_of("up"), signs_of("down"), signs_of("both")) == ((1.0,), (-1.0,), (1.0, -1.0))
