"""When a series that grows will reach a bound, at the growth of its history."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from logitwatch.drift.baseline import ORDER, Baseline

__all__ = ["Forecast", "forecast"]

# A bound on the slope that is wrong once in 700 histories.
ERRORS = 3.0


class Forecast(NamedTuple):
    """Steps from the last of the history until the bound is reached."""

    steps: float
    """At the median slope; 0 where the history is there already."""
    soonest: float
    latest: float
    """At the largest and at the smallest slope in doubt."""


def forecast(history: Sequence[tuple[float, float]], bound: float) -> Forecast | None:
    """Number of steps until a growing series reaches ``bound``, or None where it does not grow beyond doubt.

    The slope is the median of those between all pairs of points (Theil, Sen), its limits those of Kendall's rank
    statistic at three standard errors, wider by the autocorrelation of what the line leaves. For what grows by factors
    hand over logarithms. Every pair is looked at: meant for some hundred points.

    Args:
        history: Step and value, ten at least, with steps that rise. Values that are not finite are left out.
        bound: In the unit of the values. For a bound below, negate both.

    Returns:
        How many steps, with its limits; None for a history that is too short, flat, falling or unclear.

    Examples:
        >>> history = [(10 * i, 0.25 * i) for i in range(40)]  # exact growth: no doubt
        >>> forecast(history, 11.0)
        Forecast(steps=50.0, soonest=50.0, latest=50.0)
        >>> print(forecast([(step, -value) for step, value in history], 11.0))
        None

    References:
        Sen 1968, "Estimates of the regression coefficient based on Kendall's tau".
    """
    points = [(step, value) for step, value in history if math.isfinite(value)]
    n = len(points)
    if n < 10:
        return None
    slopes = sorted((y - v) / (x - u) for i, (x, y) in enumerate(points) for u, v in points[:i])
    slope = statistics.median(slopes)
    level = statistics.median(y - slope * x for x, y in points) + slope * points[-1][0]
    left = [y - slope * x for x, y in points]
    # Autocorrelated values know as much as fewer that are not; more than there are, none.
    independent = min(n, Baseline.of(left).independent) if n > 4 * ORDER else n
    doubt = ERRORS * math.sqrt(n * (n - 1) * (2 * n + 5) / 18 * n / max(independent, 1.0))
    first = math.floor((len(slopes) - doubt) / 2)
    if first < 0 or slopes[first] <= 0:
        return None
    fast, slow = slopes[len(slopes) - 1 - first], slopes[first]
    gap = max(bound - level, 0.0)
    return Forecast(gap / slope, gap / fast, gap / slow)
