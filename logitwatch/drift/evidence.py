"""What speaks for a change, summed up, beside the threshold that a budget of false alarms asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from logitwatch.drift.baseline import Baseline

__all__ = ["Evidence", "Side", "signs_of"]

Side = Literal["up", "down", "both"]
SIGNS = {"up": (1.0,), "down": (-1.0,), "both": (1.0, -1.0)}
# A sum of Gaussian deviations less an allowance k passes h at a rate of exp(-2kh). The rest is for what the warm-up got
# wrong: scale, level and autocorrelation.
EXPONENT = 1.5
# The largest Gaussian deviation among n is about sqrt(2 ln n), and seldom more than this above it.
SCATTER = 0.5
# The budget at which a tail heavier than that counts once, and as what power of the budget it counts otherwise: a tail
# of index three, as of Student's t with three degrees of freedom.
REFERENCE_RATE, TAIL_INDEX = 1e-4, 3
# In scales: a warm-up with a larger deviation had an accident in it, and one alone is no more evidence than this unless
# it passes by itself.
ACCIDENT = 8.0
# Terms of the budget that always are enough for a sum: with tails of index three that takes four such deviations soon
# after each other.
SEVERAL = 4.0
# In thresholds: how far evidence adds up, so that an alarm ends soon after its cause.
CEILING = 2.0


def signs_of(side: Side) -> tuple[float, ...]:
    """1 for upward changes, -1 for downward ones."""
    if side not in SIGNS:
        raise ValueError(f"side must be one of {', '.join(SIGNS)}, got {side!r}")
    return SIGNS[side]


class Evidence:
    """Sums of deviations less an allowance, one for each side and never below zero, and their threshold.

    Without a threshold set by hand it is ``ln(1/b) / (1.5 k) + R - k``, and as much again as R exceeds the largest of
    so many Gaussian deviations, that part times ``(1e-4/b)**(1/3)``: with b the budget, k the allowance and R the
    largest deviation so far that was no alarm. For Gaussian noise that is near 8. With heavy tails it is what one more
    outlier does not pass but once in a few e-folds of the length of the run; a single deviation has to. Sums of
    several, each cut at eight scales, have to pass it or four times its first term, whichever is less.

    Args:
        side: Which changes count.
        allowance: Taken off each deviation, in scales.
        false_alarms: The budget, alarms an update; both sides share it.
        threshold: Of the sums, in scales, in place of a budget.

    Examples:
        >>> by_hand = Evidence("up", 1.0, 1e-4, threshold=5.0)
        >>> [by_hand.add(z) for z in (0.5, 3.5, 3.5, -9.0)]
        [0.0, 0.5, 1.0, 0.0]
    """

    def __init__(self, side: Side, allowance: float, false_alarms: float, threshold: float | None = None) -> None:
        if not 0 < allowance < math.inf:
            raise ValueError(f"allowance must be > 0, got {allowance}")
        if not 0 < false_alarms < 1:
            raise ValueError(f"false_alarms is a rate between 0 and 1, got {false_alarms}")
        if threshold is not None and not 0 < threshold < math.inf:
            raise ValueError(f"threshold must be > 0, got {threshold}")
        self.signs = signs_of(side)
        rate = false_alarms / len(self.signs)
        self.allowance = allowance
        self._by_hand = threshold
        self._least = math.log(1 / rate) / (EXPONENT * allowance)
        self._tail: float = (REFERENCE_RATE / rate) ** (1 / TAIL_INDEX)
        self._sums = [0.0] * len(self.signs)
        self._largest, self._doubtful, self._seen, self._alarmed = 0.0, 0.0, 1, 0

    def start(self, baseline: Baseline) -> None:
        """Begin at zero with a new baseline. After an alarm its cause is among what that was learnt from."""
        natural = self._largest if self._alarmed else ACCIDENT
        self._sums = [0.0] * len(self.signs)
        self._largest, self._doubtful = min(baseline.largest, natural), 0.0
        self._seen, self._alarmed = baseline.learnt_from, 0

    def is_over(self, longest: int) -> bool:
        """Whether there was an alarm and nothing is left of it, or it began so many updates ago."""
        return self._alarmed > 0 and (self._alarmed > longest or not any(self._sums))

    @property
    def outlier(self) -> float:
        """What one deviation less the allowance has to reach to be an alarm by itself, in scales."""
        if self._by_hand is not None:
            return self._by_hand
        heavier = self._largest - math.sqrt(2 * math.log(self._seen)) - SCATTER
        return self._least + max(self._largest - self.allowance, 0.0) + self._tail * max(heavier, 0.0)

    @property
    def threshold(self) -> float:
        """What a sum has to reach, in scales."""
        return self.outlier if self._by_hand is not None else min(self.outlier, SEVERAL * self._least)

    def add(self, deviation: float) -> float:
        """Take in one deviation; the largest sum as a fraction of the threshold."""
        self._seen += 1
        outlier, threshold = self.outlier, self.threshold
        natural = math.inf if self._by_hand is not None else ACCIDENT
        for i, sign in enumerate(self.signs):
            z = sign * deviation
            added = (z if z - self.allowance >= outlier else min(z, natural)) - self.allowance
            self._sums[i] = min(max(0.0, self._sums[i] + added), CEILING * threshold)
        score = max(self._sums) / threshold
        if score >= 1 or self._alarmed:
            self._alarmed += 1
        # It raises the threshold once it is known to have been no part of an alarm.
        self._doubtful = max(self._doubtful, abs(deviation))
        if not any(self._sums):
            self._largest, self._doubtful = max(self._largest, self._doubtful * (self._alarmed == 0)), 0.0
        return score

    def state_dict(self) -> dict[str, Any]:
        """Numbers and a list of numbers."""
        return {
            "sums": list(self._sums),
            "largest": self._largest,
            "doubtful": self._doubtful,
            "seen": self._seen,
            "alarmed": self._alarmed,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on as saved."""
        self._sums = list(saved["sums"])
        self._largest, self._doubtful = saved["largest"], saved["doubtful"]
        self._seen, self._alarmed = saved["seen"], saved["alarmed"]
