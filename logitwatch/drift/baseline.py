"""What is normal for a series: its level, its autocorrelation and its scale, robustly, from values thought healthy."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

__all__ = ["Baseline", "Whitener"]

# A slow wander under white noise from batch to batch needs more than one.
ORDER = 4
# Deviations beyond this many scales count as this many where the baseline is learnt.
CLIP = 4.0
# A warm-up ends once it is worth this part of its length in independent values; or has LONGEST times that length.
INDEPENDENT = 0.5
LONGEST = 4
# A trend is one beyond so many standard errors.
TREND = 4.0
# Standard deviation of a Gaussian over its median absolute deviation, and over its mean one.
PER_MEDIAN, PER_MEAN = 1.4826022185056018, 1.2533141373155001
# A change smaller than this part of the largest value is rounding. SMALLEST is for a series of zeros.
ROUNDING, SMALLEST = 1e-9, 1e-150
# Deviations end here, so that those of a series that never moved before are finite.
LARGEST = 1e6


class Baseline(NamedTuple):
    """A series as a level, an autoregression and the scale of what that leaves, in the unit of the series.

    Examples:
        >>> base = Baseline.of([1.0, 3.0, 2.0, 2.5, 1.5, 1.0, 3.0, 2.5, 1.5, 2.0] * 4)
        >>> base.level, len(base.weights), base.learnt_from
        (2.0, 4, 40)
        >>> Baseline.of([5.0] * 8).weights  # constant: nothing to foretell
        (0.0, 0.0, 0.0, 0.0)
    """

    level: float
    """Median of the values."""
    spread: float
    """Standard deviation of the values, from their median absolute deviation."""
    scale: float
    """Standard deviation of the residuals: from their median absolute deviation, more where tails are heavy."""
    intercept: float
    """Centre of the residuals."""
    weights: tuple[float, ...]
    """Of the last value, of the one before it, and so on."""
    largest: float
    """Largest distance of a residual from the centre, in scales."""
    independent: float
    """How many independent values would know the level as well."""
    learnt_from: int
    """How many values this was learnt from."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Baseline:
        """From finite values in their order, more than four.

        Where they have a trend beyond doubt, it is taken out, and the level is that of the last value. The
        autocovariances are those of values cut at four scales from the median, so that no outlier makes them; the
        autoregression is theirs, by the recursion of Levinson and Durbin.
        """
        slope, last = _slope(values), len(values) - 1
        flat = cls._of_level([x + slope * (last - i) for i, x in enumerate(values)])
        # Of a straight line through values whose mean has this standard error.
        error = math.sqrt(12) * flat.spread / math.sqrt(flat.independent) / len(values)
        return flat if abs(slope) > TREND * error else cls._of_level(values)

    @classmethod
    def _of_level(cls, values: Sequence[float]) -> Baseline:
        level = statistics.median(values)
        rounding = max(ROUNDING * max(map(abs, values)), SMALLEST)
        spread = max(_scale(values, level), rounding)
        weights, independent = _autoregression(_autocovariances(values, level, spread))
        residuals = [_residual(weights, values[i - ORDER : i], values[i]) for i in range(ORDER, len(values))]
        centre = statistics.median(residuals)
        scale = max(_scale(residuals, centre), rounding)
        # What is summed later has to be zero on average and one in spread also where noise is skewed or heavy-tailed.
        cut = [_clip((r - centre) / scale, CLIP) for r in residuals]
        centre += scale * statistics.fmean(cut)
        scale *= max(1.0, statistics.pstdev(cut))
        largest = max(abs(r - centre) for r in residuals) / scale
        return cls(level, spread, scale, centre, weights, largest, independent * len(values), len(values))

    def deviation(self, before: Sequence[float], value: float) -> float:
        """How far a value is from what the four before it foretell, in scales; at most a million."""
        return _clip((_residual(self.weights, before, value) - self.intercept) / self.scale, LARGEST)


NOTHING = Baseline(0.0, 0.0, 0.0, 0.0, (0.0,) * ORDER, 0.0, 0.0, 0)


class Whitener:
    """A stream of values as deviations without autocorrelation, from a baseline that is learnt first and then frozen.

    Where the level has moved by a standard deviation, and to a side where that is no alarm, as a loss does all the
    time, the baseline is learnt again.

    Args:
        warmup: How many values to learn from; up to four times as many where they are so autocorrelated that these
            know little.
        follow: To which side the level may move: -1 down, 1 up, 0 none.

    Examples:
        >>> stream = Whitener(16)
        >>> {stream.deviation(float(i % 5)) for i in range(16)}  # all of them to learn from
        {None}
        >>> stream.baseline.level
        2.0
    """

    def __init__(self, warmup: int, follow: float = 0.0) -> None:
        if warmup <= 2 * ORDER:
            raise ValueError(f"warmup must be more than {2 * ORDER} values, got {warmup}")
        self.baseline: Baseline | None = None
        self._warmup, self._follow = warmup, follow
        self._recent: deque[float] = deque(maxlen=LONGEST * warmup)
        self._since = 0  # values since the last look at the level

    @property
    def longest(self) -> int:
        """How many values a warm-up takes at most, and `relearn` uses."""
        return self._recent.maxlen or 0

    def deviation(self, value: float) -> float | None:
        """Take in one finite value. Its deviation in scales, or None where what follows has a new baseline or none."""
        recent, base = self._recent, self.baseline
        z = None if base is None else base.deviation([recent[i] for i in range(-ORDER, 0)], value)
        recent.append(value)
        self._since += 1
        if self._since < self._warmup:
            return z
        self._since = 0
        if base is None:
            learnt = Baseline.of(list(recent))
            if learnt.independent >= INDEPENDENT * self._warmup or len(recent) == recent.maxlen:
                self.baseline = learnt
        elif self._follow and self._follow * (self._level() - base.level) > base.spread:
            self.relearn()
            return None
        return z

    def relearn(self) -> Baseline:
        """Freeze a new baseline, of the last values."""
        self.baseline = Baseline.of(list(self._recent))
        return self.baseline

    def reset(self) -> None:
        """Forget everything: the warm-up begins again."""
        self.baseline = None
        self._recent.clear()
        self._since = 0

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists of numbers, in dictionaries; as many before the warm-up is over as after it."""
        most = self._recent.maxlen or 0
        base = self.baseline or NOTHING
        return {
            "recent": [*self._recent, *[0.0] * (most - len(self._recent))],
            "kept": len(self._recent),
            "since": self._since,
            "learnt": self.baseline is not None,
            "baseline": {**base._asdict(), "weights": list(base.weights)},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on as saved."""
        self._recent = deque(saved["recent"][: saved["kept"]], maxlen=self._recent.maxlen)
        self._since = saved["since"]
        fields = {**saved["baseline"], "weights": tuple(saved["baseline"]["weights"])}
        self.baseline = Baseline(**fields) if saved["learnt"] else None

    def _level(self) -> float:
        """Of the values since the last look."""
        return statistics.median(islice(self._recent, len(self._recent) - self._warmup, None))


def _clip(x: float, bound: float) -> float:
    return max(-bound, min(bound, x))


def _slope(values: Sequence[float]) -> float:
    """Of the line through the medians of the first and of the last third, per value."""
    third = len(values) // 3
    return (statistics.median(values[-third:]) - statistics.median(values[:third])) / (len(values) - third)


def _scale(values: Sequence[float], centre: float) -> float:
    """From the median deviation; from the mean one where more than half of the values are the same."""
    deviations = [abs(x - centre) for x in values]
    return PER_MEDIAN * statistics.median(deviations) or PER_MEAN * statistics.fmean(deviations)


def _autocovariances(values: Sequence[float], level: float, scale: float) -> list[float]:
    """At lags 0 to ORDER, of the values cut at CLIP scales; divided by the number of all, so that they are a sequence
    of autocovariances and the autoregression is stationary."""
    cut = [_clip((x - level) / scale, CLIP) for x in values]
    mean = statistics.fmean(cut)
    centred = [x - mean for x in cut]
    pairs = ((centred, islice(centred, lag, None)) for lag in range(ORDER + 1))
    return [sum(a * b for a, b in zip(these, later, strict=False)) / len(cut) for these, later in pairs]


def _residual(weights: Sequence[float], before: Sequence[float], value: float) -> float:
    for weight, x in zip(weights, reversed(before), strict=True):
        value -= weight * x
    return value


def _autoregression(covariances: Sequence[float]) -> tuple[tuple[float, ...], float]:
    """Its weights, and the variance of the values over the variance that their mean has times their number."""
    weights: list[float] = []
    left = covariances[0]
    for order in range(1, len(covariances)):
        if left <= 0:  # foretold without error; a constant, for one
            weights.append(0.0)
            continue
        reflection = (covariances[order] - sum(w * covariances[order - 1 - j] for j, w in enumerate(weights))) / left
        weights = [w - reflection * v for w, v in zip(weights, reversed(weights), strict=True)] + [reflection]
        left *= 1 - reflection**2
    return tuple(weights), covariances[0] * (1 - sum(weights)) ** 2 / left if left > 0 else 1.0
