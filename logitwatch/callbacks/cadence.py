"""When to look and when to report: a pure object, chosen in the first steps and then frozen."""

from __future__ import annotations

import math
import statistics
from typing import Any

__all__ = ["Cadence"]

# Steps looked at before the cadence is frozen: dense at first, when most goes wrong, and few in all.
WARMUP = (0, 1, 2, 4, 8, 16, 24, 32)
# Reports of the warm-up. The first opens files and imports backends, so it is not counted.
WARMUP_REPORTS = (8, 24, 32)
# Cadences are rounded up to one of these, so that noise of the clock seldom changes them.
NICE = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 5000, 10_000)
DEFAULT_ROWS = 64
MOST_ROWS = 1024
HISTOGRAM_EVERY = 4
SAVED = ("every_n_steps", "rows", "report_every", "next_look", "next_report", "reports")


class Cadence:
    """Which optimizer steps are looked at, how many rows of each, and which are reported.

    Either set by hand (``every_n_steps``), or chosen so that looking and reporting cost about ``budget`` of the step
    time: during the first 32 steps a few looks and reports are timed, then the cadence is frozen, so that a run can be
    repeated and resumed with the same one.

    Args:
        budget: Largest fraction of step time the suite may cost.
        every_n_steps: Optimizer steps between looks; None to choose.
        rows: Rows of a looked-at step whose distribution is taken; None to choose.
        report_every: Fewest optimizer steps between reports.

    Examples:
        >>> by_hand = Cadence(every_n_steps=20, rows=64, report_every=50)
        >>> [step for step in range(130) if by_hand.look(step)]
        [0, 20, 40, 60, 80, 100, 120]
        >>> [step for step in range(0, 130, 20) if by_hand.report(step)]
        [60, 120]
        >>> chosen = Cadence(budget=0.01, report_every=50)
        >>> for step in range(33):
        ...     chosen.timed_step(0.001)
        ...     if chosen.look(step):
        ...         chosen.timed_look(0.0004)
        ...         if chosen.report(step):
        ...             chosen.timed_report(0.0006)
        >>> chosen.ready(), chosen.choose()  # 0.4 ms + 0.6 ms every 100 steps of 1 ms
        (True, (100, 64))
    """

    def __init__(
        self,
        *,
        budget: float = 0.01,
        every_n_steps: int | None = None,
        rows: int | None = None,
        report_every: int = 50,
    ) -> None:
        self.budget = budget
        self.every_n_steps = every_n_steps
        self.report_every = max(1, report_every)
        self.rows = rows or DEFAULT_ROWS
        self.frozen = every_n_steps is not None
        self._rows_by_hand = rows is not None
        self._start: int | None = None  # the warm-up counts from the first step seen, also after a resume
        self._next_look = 0
        self._next_report = 0
        self._reports = 0
        self._steps: list[float] = []
        self._looks: list[float] = []
        self._report_times: list[float] = []
        if every_n_steps is not None:
            self._freeze(every_n_steps)

    def look(self, step: int) -> bool:
        """Whether to look at a step; True once for each due step, however many micro-batches it has."""
        if step < self._next_look:
            return False
        if self.every_n_steps is None:
            self._start = step if self._start is None else self._start
            self._next_look = next((self._start + s for s in WARMUP if self._start + s > step), step + 1)
        else:
            self._next_look = step - step % self.every_n_steps + self.every_n_steps
        return True

    def report(self, step: int) -> bool:
        """Whether the step just looked at ends a report window."""
        if self.every_n_steps is None:
            due = len(self._report_times) < len(WARMUP_REPORTS)
            return due and step - (self._start or 0) >= WARMUP_REPORTS[len(self._report_times)]
        if step < self._next_report:
            return False
        self._next_report = step - step % self.report_every + self.report_every
        return True

    @property
    def histograms(self) -> bool:
        """Whether the looks of the current window take histograms: those of the first do, then of every fourth."""
        return self._reports % HISTOGRAM_EVERY == 0

    def reported(self) -> None:
        """A window was reported; the next begins."""
        self._reports += 1

    def timed_step(self, seconds: float) -> None:
        """Note the time of a step without a look; only asked for while not frozen."""
        self._steps.append(seconds)

    def timed_look(self, seconds: float) -> None:
        """Note what a look cost."""
        if not self.frozen:
            self._looks.append(seconds)

    def timed_report(self, seconds: float) -> None:
        """Note what a report cost."""
        if not self.frozen:
            self._report_times.append(seconds)

    def ready(self) -> bool:
        """Whether enough was timed to choose."""
        return not self.frozen and len(self._report_times) >= len(WARMUP_REPORTS)

    def choose(self) -> tuple[int, int]:
        """Steps between looks and rows of each that keep to the budget, from what was timed.

        Times are taken on the safe side: a low quartile of the steps, the median of the warm looks. Of the reports
        the first open files and fill caches.
        """
        step = statistics.quantiles(self._steps[2:] or [1.0], n=4)[0] if len(self._steps) > 3 else 1.0
        look = statistics.median(self._looks[2:] or [0.0])
        report = statistics.median_low(self._report_times[1:] or [0.0])
        allowed = self.budget * step
        left = allowed - report / self.report_every
        n = look / left if left > 0 else math.inf
        if n > self.report_every:  # each look is then reported
            n = (look + report) / allowed
        every = next((nice for nice in NICE if nice >= n), math.ceil(min(n, 1e6)))
        rows = self.rows
        while not self._rows_by_hand and every == 1 and rows < MOST_ROWS and 2 * rows / self.rows * look <= left:
            rows *= 2
        return every, rows

    def freeze(self, every_n_steps: int, rows: int, *, step: int) -> None:
        """Fix the cadence from the step on."""
        self.rows = rows
        self._freeze(every_n_steps)
        self._next_look = step - step % every_n_steps + every_n_steps
        self._next_report = step - step % self.report_every + self.report_every

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers that restore this cadence exactly."""
        numbers = (self.every_n_steps, self.rows, self.report_every, self._next_look, self._next_report, self._reports)
        return dict(zip(SAVED, numbers, strict=True))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as saved. What is set by hand holds; a cadence that was not frozen when saved warms up anew.

        Raises:
            ValueError: If it is not what `state_dict` gave; nothing is changed then.
        """
        every, rest = state["every_n_steps"], [state[n] for n in SAVED[1:]]
        if not all(type(number) is int and number >= 0 for number in (every or 0, *rest)) or every == 0:
            raise ValueError(f"expected the whole numbers {', '.join(SAVED)}, got {state}")
        if every is None or (self.frozen and every != self.every_n_steps):
            return
        rows, self.report_every, self._next_look, self._next_report, self._reports = rest
        self.rows = self.rows if self._rows_by_hand else rows
        self.every_n_steps, self.frozen = every, True

    def _freeze(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self.frozen = True
        # A report window is a whole number of looks, so that each report has seen as much as the next.
        self.report_every = math.ceil(self.report_every / every_n_steps) * every_n_steps
        self._next_report = self.report_every
        self._steps, self._looks, self._report_times = [], [], []
