import math

import pytest
from helpers.noises import gaussian, heavy_tailed
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import theilslopes

from logitwatch.drift.growth import forecast


def line(noise: list[float], slope: float) -> list[tuple[float, float]]:
    """Every tenth step."""
    return [(10.0 * i, slope * 10 * i + x) for i, x in enumerate(noise)]


def test_the_slope_is_that_of_scipy() -> None:
    history = line(heavy_tailed(80, 0), 0.05)
    steps, values = zip(*history, strict=True)
    slope, intercept, _, _ = theilslopes(values, steps, method="joint")
    level = intercept + slope * steps[-1]
    expected = forecast(history, level + 100.0)
    assert expected is not None
    assert expected.steps == pytest.approx(100 / slope, rel=1e-12)  # the same medians


@given(seed=st.integers(0, 1000))
def test_the_limits_hold_the_truth(seed: int) -> None:
    got = forecast(line(gaussian(60, seed), 0.05), 0.05 * 590 + 50)
    assert got is not None
    assert got.soonest <= got.steps <= got.latest
    # 1000 steps. The limits are of the slope at three standard errors; the level is off by 0.3 of 50 as well.
    assert 0.97 * got.soonest < 1000 < 1.03 * got.latest


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_a_series_that_does_not_grow_has_no_forecast(memory: float) -> None:
    forecasts = [forecast(line(gaussian(100, seed, memory), 0.0), 100.0) for seed in range(100)]
    # Once in 700; of an autoregression more often, whose own autocorrelation is known from 100 values.
    assert sum(got is not None for got in forecasts) <= (1 if memory == 0 else 8)


def test_growth_by_factors_is_a_line_in_logarithms() -> None:
    history = [(step, math.log(10 * 1.001**step)) for step in range(0, 2000, 20)]
    got = forecast(history, math.log(65504))
    assert got is not None
    # ln(6550.4) / ln(1.001) steps from the beginning, 1980 of them gone.
    assert got.steps == pytest.approx(math.log(6550.4) / math.log(1.001) - 1980, rel=1e-6)


def test_a_bound_that_is_passed_is_reached_in_no_steps() -> None:
    assert forecast(line([0.0] * 40, 0.5), 10.0) == (0.0, 0.0, 0.0)


def test_outliers_do_not_make_a_forecast_nor_hide_one() -> None:
    noise = gaussian(60, 1)
    for i in (50, 55, 58):
        noise[i] = 1000.0
    assert forecast(line(noise, 0.0), 100.0) is None
    got = forecast(line(noise, 0.05), 0.05 * 590 + 50)
    assert got is not None
    assert got.steps == pytest.approx(1000, rel=0.2)  # of 60 values with an error of one, on a line of 30


def test_values_that_are_not_finite_are_left_out() -> None:
    history = line([0.0] * 40, 0.5)
    assert forecast([*history, (400.0, math.nan), (410.0, math.inf)], 300.0) == forecast(history, 300.0)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_a_short_history_has_no_forecast(count: int) -> None:
    assert forecast(line([0.0] * count, 1.0), 100.0) is None
