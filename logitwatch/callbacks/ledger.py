"""What the suite costs and how much of the data it has seen: the suite watching itself."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Ledger"]


class Ledger:
    """Time and rows of the training steps since the last report.

    Args:
        clock: What both the suite and the steps are timed with.

    Examples:
        >>> ledger = Ledger()
        >>> for _ in range(10):
        ...     ledger.step()
        >>> ledger.looked(rows=64, sampled=32)
        >>> round(ledger.balance()["logitwatch/coverage"], 3)  # 32 of ten times 64 rows
        0.05
        >>> sorted(ledger.balance())  # nothing was looked at since
        ['logitwatch/overhead']
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = clock()
        self._paused: float | None = None
        self._own = 0.0
        self._steps = self._looks = self._rows = self._sampled = 0

    def step(self) -> None:
        """A training step begins."""
        self._steps += 1

    def looked(self, *, rows: int, sampled: int) -> None:
        """A step was looked at: it had so many rows, and of so many the distribution was taken."""
        self._looks += 1
        self._rows += rows
        self._sampled += sampled

    def spent(self, seconds: float) -> None:
        """The suite itself took so long."""
        self._own += seconds

    def pause(self) -> None:
        """Validation begins, whose time is not that of training steps."""
        self._paused = self._clock()

    def resume(self) -> None:
        """Validation is over."""
        if self._paused is not None:
            self._began += self._clock() - self._paused
            self._paused = None

    def balance(self) -> dict[str, float]:
        """Overhead and coverage since the last balance, which begins the next.

        Rows of the steps not looked at are taken to be as many as of those that were.
        """
        now = self._clock()
        values = {"logitwatch/overhead": self._own / max(1e-9, now - self._began)}
        if self._rows:
            values["logitwatch/coverage"] = self._sampled / (self._rows / self._looks * max(self._steps, self._looks))
        self._began, self._own = now, 0.0
        self._steps = self._looks = self._rows = self._sampled = 0
        return values
