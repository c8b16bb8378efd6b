"""Sequential detectors: one number in, whether it is still the series that was learnt out.

All of them are plain Python and resume exactly. Three ask for a budget of false alarms, at most so many an update, and
not for a threshold; rules that share a budget divide it among them.

A value that is not finite, or beyond 1e150, is an alarm with an infinite score and leaves the detector as it was. Where
a number stands for "nothing measured", do not hand it over.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from logitwatch.drift.baseline import ROUNDING, SMALLEST, Baseline, Whitener
from logitwatch.drift.evidence import Evidence, Side, signs_of
from logitwatch.drift.verdict import Verdict

__all__ = ["Cusum", "EProcess", "PageHinkley", "RollingZScore"]

# Squares of what is beyond have no float.
BEYOND = 1e150
# Fractions of all that a bet may put on the next deviation: small ones win against slow drifts, large ones soon.
BETS = (0.1, 0.3, 0.9)
# In scales: a bet is on deviations cut here.
CUT = 3.0


class Cusum:
    """Cumulative sum of deviations from a frozen baseline: for spikes that last, shifts and drifts.

    ``S = max(0, S + z - k)``, with z the residual of an autoregression on the last four values in robust standard
    deviations. The baseline is learnt in a warm-up, in which nothing is an alarm; again when the level has moved to the
    side that is not watched, as a loss does that falls; and again when an alarm has ended or has lasted
    for four warm-ups, after which the new level is what is normal.

    Args:
        false_alarms: The budget, alarms an update. It holds for series that are stationary after the warm-up, Gaussian,
            with heavy tails (Student's t with three degrees of freedom), or autocorrelated.
        side: Which changes count, "up", "down" or "both".
        warmup: Values to learn from; up to four times as many where autocorrelation asks for them.
        allowance: k, in standard deviations: shifts smaller than this do not add up.
        threshold: Of S, in standard deviations, in place of the budget.

    Examples:
        >>> detector = Cusum(warmup=32)
        >>> series = [3.0 + 0.1 * (i * 7 % 5) for i in range(64)] + [9.0] * 3
        >>> [detector.update(x).alarm for x in series][-4:]
        [False, True, True, True]
        >>> detector.update(float("nan")).score
        inf

    References:
        Page 1954, "Continuous inspection schemes". Lorden 1971, "Procedures for reacting to a change in distribution".
    """

    def __init__(
        self,
        *,
        false_alarms: float = 1e-4,
        side: Side = "up",
        warmup: int = 128,
        allowance: float = 1.0,
        threshold: float | None = None,
    ) -> None:
        self._series = Whitener(warmup, _unwatched(side))
        self._evidence = Evidence(side, allowance, false_alarms, threshold)

    def update(self, value: float) -> Verdict:
        """See `Detector.update`."""
        value = float(value)
        if not abs(value) <= BEYOND:
            return _not_finite(self._series.baseline)
        z, base = self._series.deviation(value), self._series.baseline
        if z is None or base is None:
            if base is not None:
                self._start(base)
            return Verdict(False, 0.0, None)
        level, z = self._against_level(base, z)
        score = self._evidence.add(z)
        if self._evidence.is_over(self._series.longest):
            self._start(self._series.relearn())
        return Verdict(score >= 1, score, level)

    def reset(self) -> None:
        """See `Detector.reset`."""
        self._series.reset()

    def state_dict(self) -> dict[str, Any]:
        """See `Detector.state_dict`."""
        return {"series": self._series.state_dict(), "evidence": self._evidence.state_dict()}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `Detector.load_state_dict`."""
        self._series.load_state_dict(saved["series"])
        self._evidence.load_state_dict(saved["evidence"])

    def _start(self, baseline: Baseline) -> None:
        self._evidence.start(baseline)

    def _against_level(self, baseline: Baseline, deviation: float) -> tuple[float, float]:
        """The level in the unit of the values, and a deviation from it."""
        return baseline.level, deviation


class PageHinkley(Cusum):
    """Cumulative sum of deviations from their own running mean: for shifts, where the warm-up may be off.

    As `Cusum`, but the level is the mean of all values since the warm-up and so follows a slow drift in part.

    Args:
        false_alarms: See `Cusum`.
        side: See `Cusum`.
        warmup: See `Cusum`; only scale and autocorrelation are learnt for good.
        allowance: See `Cusum`.
        threshold: See `Cusum`.

    Examples:
        >>> detector = PageHinkley(warmup=32, side="down")
        >>> series = [3.0 + 0.1 * (i * 7 % 5) for i in range(64)] + [1.0] * 3
        >>> [detector.update(x).alarm for x in series][-4:]
        [False, True, True, True]

    References:
        Page 1954; Hinkley 1971, "Inference about the change-point from cumulative sum tests".
    """

    _mean, _count = 0.0, 0  # of the deviations since the warm-up

    def state_dict(self) -> dict[str, Any]:
        """See `Detector.state_dict`."""
        return {**super().state_dict(), "mean": self._mean, "count": self._count}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `Detector.load_state_dict`."""
        super().load_state_dict(saved)
        self._mean, self._count = saved["mean"], saved["count"]

    def _start(self, baseline: Baseline) -> None:
        super()._start(baseline)
        # The baseline counts as what it was learnt from: deviations of its own values have mean zero.
        self._mean, self._count = 0.0, baseline.learnt_from

    def _against_level(self, baseline: Baseline, deviation: float) -> tuple[float, float]:
        mean = self._mean
        self._count += 1
        self._mean += (max(-CUT, min(CUT, deviation)) - mean) / self._count
        # A shift of the level is seen in the residuals only in part.
        return baseline.level + mean * baseline.scale / (1 - sum(baseline.weights)), deviation - mean


class RollingZScore:
    """Distance from the mean of the last values in their standard deviations: for single spikes; blind to drifts.

    The rule of OLMo, levanter and MaxText, for comparison with their numbers. It has no budget: on Gaussian values six
    standard deviations are never passed, with heavy tails several times in ten thousand updates. Values beyond the
    threshold enter the window as the threshold, so that a spike does not hide the next.

    Args:
        window: How many values; half of them have to be there before it speaks.
        threshold: Standard deviations that are an alarm.
        side: Which changes count, "up", "down" or "both".

    Examples:
        >>> detector = RollingZScore(window=8)
        >>> [detector.update(x).alarm for x in (1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 6.0, 2.0)]
        [False, False, False, False, False, False, True, False]
    """

    def __init__(self, *, window: int = 128, threshold: float = 6.0, side: Side = "up") -> None:
        if window < 4:
            raise ValueError(f"window must be >= 4 values, got {window}")
        if not 0 < threshold < math.inf:
            raise ValueError(f"threshold must be > 0, got {threshold}")
        self._signs = signs_of(side)
        self._threshold = threshold
        self._window: deque[float] = deque(maxlen=window)

    def update(self, value: float) -> Verdict:
        """See `Detector.update`."""
        value, window = float(value), self._window
        ready = 2 * len(window) >= (window.maxlen or 0)
        mean = statistics.fmean(window) if ready else None
        if not abs(value) <= BEYOND:
            return Verdict(True, math.inf, mean)
        if mean is None:
            window.append(value)
            return Verdict(False, 0.0, None)
        squares = math.fsum((x - mean) ** 2 for x in window)
        floor = max(ROUNDING * max(map(abs, window)), SMALLEST)
        bound = self._threshold * max(math.sqrt(squares / (len(window) - 1)), floor)
        score = max(sign * (value - mean) for sign in self._signs) / bound
        window.append(max(mean - bound, min(mean + bound, value)))
        return Verdict(score >= 1, max(score, 0.0), mean)

    def reset(self) -> None:
        """See `Detector.reset`."""
        self._window.clear()

    def state_dict(self) -> dict[str, Any]:
        """See `Detector.state_dict`."""
        return {"window": list(self._window)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `Detector.load_state_dict`."""
        self._window = deque(saved["window"], maxlen=self._window.maxlen)


class EProcess:
    """Wealth of bets that deviations are above the allowance: for slow drifts, with a guarantee; late on spikes.

    Each bet starts with 1, multiplies it with ``1 + b (z - k) / (c + k)`` at each update and never falls below 1; z is
    cut at ``c = 3``. An alarm is their mean reaching one over the budget. Where deviations have a conditional mean of
    at most k, whatever their distribution, the expected number of updates to the first alarm is at least that: what is
    assumed is the baseline, not the noise. The baseline is learnt, and learnt again, as in `Cusum`.

    Args:
        false_alarms: The budget, alarms an update.
        side: Which changes count, "up", "down" or "both".
        warmup: See `Cusum`.
        allowance: k, in standard deviations; also for what the baseline got wrong.

    Examples:
        >>> detector = EProcess(warmup=32)
        >>> series = [3.0 + 0.1 * (i * 7 % 5) for i in range(64)] + [9.0] * 24
        >>> alarms = [detector.update(x).alarm for x in series]
        >>> alarms.index(True)
        84

    References:
        Shin, Ramdas, Rinaldo 2024, "E-detectors", https://arxiv.org/abs/2203.03532.
    """

    def __init__(
        self, *, false_alarms: float = 1e-4, side: Side = "up", warmup: int = 128, allowance: float = 0.5
    ) -> None:
        if not 0 < false_alarms < 1:
            raise ValueError(f"false_alarms is a rate between 0 and 1, got {false_alarms}")
        if not 0 < allowance < CUT:
            raise ValueError(f"allowance must be > 0 and < {CUT:g}, got {allowance}")
        self._series = Whitener(warmup, _unwatched(side))
        self._goal = math.log(1 / false_alarms)
        self._bets = [(sign, bet) for sign in signs_of(side) for bet in BETS]
        self._allowance = allowance
        self._wealth = [0.0] * len(self._bets)  # its logarithm
        self._alarmed = 0  # updates since an alarm began

    def update(self, value: float) -> Verdict:
        """See `Detector.update`."""
        value = float(value)
        if not abs(value) <= BEYOND:
            return _not_finite(self._series.baseline)
        z = self._series.deviation(value)
        if z is None:
            self._start()
            return Verdict(False, 0.0, None)
        z, k = max(-CUT, min(CUT, z)), self._allowance
        self._wealth = [
            # Twice the goal is as good as any more, and an alarm ends sooner.
            min(max(old, 0.0) + math.log1p(bet * (sign * z - k) / (CUT + k)), 2 * self._goal)
            for old, (sign, bet) in zip(self._wealth, self._bets, strict=True)
        ]
        score, level = max(0.0, _log_mean_exp(self._wealth)) / self._goal, _level(self._series.baseline)
        if score >= 1 or self._alarmed:
            self._alarmed += 1
        if self._alarmed > self._series.longest or (self._alarmed and max(self._wealth) <= 0):
            self._series.relearn()
            self._start()
        return Verdict(score >= 1, score, level)

    def reset(self) -> None:
        """See `Detector.reset`."""
        self._series.reset()

    def state_dict(self) -> dict[str, Any]:
        """See `Detector.state_dict`."""
        return {"series": self._series.state_dict(), "wealth": list(self._wealth), "alarmed": self._alarmed}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `Detector.load_state_dict`."""
        self._series.load_state_dict(saved["series"])
        self._wealth, self._alarmed = list(saved["wealth"]), saved["alarmed"]

    def _start(self) -> None:
        self._wealth, self._alarmed = [0.0] * len(self._bets), 0


def _unwatched(side: Side) -> float:
    return -sum(signs_of(side))


def _not_finite(baseline: Baseline | None) -> Verdict:
    return Verdict(True, math.inf, _level(baseline))


def _level(baseline: Baseline | None) -> float | None:
    return None if baseline is None else baseline.level


def _log_mean_exp(values: list[float]) -> float:
    most = max(values)
    return most + math.log(math.fsum(math.exp(x - most) for x in values) / len(values))
