import math
import statistics
from itertools import pairwise

import pytest
from helpers.noises import gaussian, heavy_tailed
from hypothesis import given
from hypothesis import strategies as st

from logitwatch.drift.baseline import Baseline, Whitener


def deviations(base: Baseline, values: list[float]) -> list[float]:
    return [base.deviation(values[i - 4 : i], values[i]) for i in range(4, len(values))]


@pytest.mark.parametrize("memory", [-0.5, 0.0, 0.5, 0.9])
def test_deviations_of_an_autoregression_are_white_and_of_scale_one(memory: float) -> None:
    values = [3 + 0.05 * x for x in gaussian(8192, 0, memory)]
    z = deviations(Baseline.of(values[:4096]), values[4096:])
    # Standard errors from 4096 values: 0.016, 0.011 and 0.016, and those of the fit, as large; the scale is from a
    # median, with 0.018.
    assert abs(statistics.fmean(z)) < 0.1
    assert abs(statistics.pstdev(z) - 1) < 0.08
    assert abs(sum(a * b for a, b in pairwise(z)) / len(z)) < 0.08


def test_the_weights_are_those_of_the_process() -> None:
    x = gaussian(2, 1)
    for e in gaussian(20_000, 2):
        x.append(0.5 * x[-1] - 0.3 * x[-2] + e)
    # Their standard error is 1 / sqrt(20,000) = 0.007.
    assert Baseline.of(x).weights == pytest.approx((0.5, -0.3, 0.0, 0.0), abs=0.03)


def test_a_slow_wander_under_white_noise_is_one_of_many_times_fewer_values() -> None:
    values = [a + b for a, b in zip(gaussian(4096, 3, 0.95), gaussian(4096, 4), strict=True)]
    base = Baseline.of(values)
    # The mean of the wander varies as that of 39 times fewer, of the sum as that of 20; four weights see most of it.
    assert 4096 / 40 < base.independent < 4096 / 8
    assert 2000 < Baseline.of(gaussian(4096, 5)).independent < 8000


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-1000, 1000))
def test_deviations_do_not_depend_on_unit_and_origin(seed: int, unit: float, origin: float) -> None:
    values = gaussian(160, seed, 0.5)
    moved = [origin + unit * x for x in values]
    plain = deviations(Baseline.of(values[:128]), values[128:])
    # Rounding of values near 1000 in units of 0.01 is 1e-11 of a unit; the recursion may lose two digits more.
    assert deviations(Baseline.of(moved[:128]), moved[128:]) == pytest.approx(plain, abs=1e-8)


@given(st.integers(0, 1000))
def test_an_upside_down_series_has_the_opposite_deviations(seed: int) -> None:
    values = gaussian(160, seed, 0.5)
    upside_down = [-x for x in values]
    plain = deviations(Baseline.of(values[:128]), values[128:])
    # But for the order of sums, which is the same.
    assert deviations(Baseline.of(upside_down[:128]), upside_down[128:]) == pytest.approx(
        [-z for z in plain], abs=1e-12
    )


def test_a_spike_in_the_warm_up_moves_the_baseline_little() -> None:
    values = gaussian(128, 6)
    clean = Baseline.of(values)
    spoiled = Baseline.of([x + 1000 * (60 <= i < 65) for i, x in enumerate(values)])
    assert abs(spoiled.level - clean.level) < 0.2
    # Five values of 128 and what is foretold from them at four scales: sqrt(1 + 10 / 128 * 16) = 1.5; and the median
    # deviation is larger too.
    assert 0.9 < spoiled.scale / clean.scale < 1.9
    assert spoiled.largest > 100


def test_a_trend_is_taken_out_and_the_level_is_where_it_ends() -> None:
    base = Baseline.of([5 - 0.1 * i + 0.05 * x for i, x in enumerate(gaussian(128, 7))])
    # The line is through medians of 42 values: their standard error is 0.01, twice that at the end.
    assert base.level == pytest.approx(5 - 12.7, abs=0.05)
    assert base.spread == pytest.approx(0.05, rel=0.4)
    assert abs(sum(base.weights)) < 0.6


def test_a_stationary_series_has_no_trend_taken_out() -> None:
    for seed in range(20):
        values = gaussian(512, seed, 0.9)
        assert Baseline.of(values).level == statistics.median(values)


@pytest.mark.parametrize("constant", [0.0, 3.0, -1e150, 1e-300])
def test_a_constant_has_finite_deviations(constant: float) -> None:
    base = Baseline.of([constant] * 64)
    assert base.deviation([constant] * 4, constant) == 0
    assert base.deviation([constant] * 4, constant + max(abs(constant), 1e-100)) == 1e6
    assert base.scale > 0


def test_mostly_zeros_have_a_scale_of_their_own() -> None:
    base = Baseline.of([float(i % 10 == 0) for i in range(200)])
    assert base.level == 0
    assert 0.1 < base.scale < 1


def test_deviations_of_skewed_noise_have_mean_zero() -> None:
    values = [x * x for x in gaussian(8192, 11)]
    z = deviations(Baseline.of(values[:4096]), values[4096:])
    # Its median alone would be the centre 0.5 standard deviations too low. What is beyond the cut is 0.1 of the mean.
    assert abs(statistics.fmean(max(-4.0, min(4.0, x)) for x in z)) < 0.1


def test_the_warm_up_of_an_autocorrelated_series_is_longer() -> None:
    lengths = {}
    for memory in (0.0, 0.9):
        stream = Whitener(128)
        z = [stream.deviation(x) for x in gaussian(1000, 8, memory)]
        lengths[memory] = sum(x is None for x in z)
    assert lengths == {0.0: 128, 0.9: 512}


def test_a_level_that_falls_is_followed_to_the_side_that_may() -> None:
    series = [10 - 0.002 * i + 0.05 * x for i, x in enumerate(gaussian(4000, 9))]
    levels = {}
    for follow in (-1.0, 0.0, 1.0):
        stream = Whitener(128, follow)
        for x in series:
            stream.deviation(x)
        assert stream.baseline is not None
        levels[follow] = stream.baseline.level
    # A look every 128 values, in which it falls by 0.26; of the values since the last one the middle counts.
    assert levels[-1.0] == pytest.approx(2.0, abs=0.6)
    assert levels[0.0] == levels[1.0] > 8


def test_too_short_a_warm_up_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup must be more than 8 values, got 8"):
        Whitener(8)


def test_heavy_tails_have_a_larger_scale_than_their_middle() -> None:
    values = heavy_tailed(4096, 10)
    # The middle of t3 over its standard deviation has the scale 0.655 of a Gaussian's.
    assert 0.68 < Baseline.of(values).scale < 1.0
    assert math.isfinite(Baseline.of(values).largest)
