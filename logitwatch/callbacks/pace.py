"""The steps of one training and the clock: which are looked at, what they take, and what the suite takes of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from logitwatch.callbacks.cadence import Cadence
from logitwatch.callbacks.ledger import Ledger

__all__ = ["Pace"]


class Pace:
    """Follows optimizer steps, and times what the cadence is chosen from.

    Args:
        device: Says on which device the steps run.

    Attributes:
        cadence: When to look and report; None before the first training step.
        ledger: What was spent since the last report.

    Examples:
        >>> pace = Pace(lambda: torch.device("cpu"))
        >>> pace.cadence = Cadence(every_n_steps=2)
        >>> [pace.due(step) for step in (0, 0, 1, 2)]  # two micro-batches of step 0
        [True, False, False, True]
    """

    def __init__(self, device: Callable[[], torch.device]) -> None:
        self._device = device
        self.cadence: Cadence | None = None
        self.ledger = Ledger(self.now)
        self._step, self._step_start = -1, 0.0
        self._undisturbed = False  # whether the step under way is one whose time says what steps cost

    def due(self, step: int) -> bool:
        """A training step begins: whether it is to be looked at."""
        assert self.cadence is not None
        self.ledger.step()
        if step != self._step:
            if not self.cadence.frozen:
                now = self.now()
                if self._undisturbed:
                    self.cadence.timed_step(now - self._step_start)
                self._step_start, self._undisturbed = now, True
            self._step = step
        if not self.cadence.look(step):
            return False
        self._undisturbed = False
        return True

    def interrupted(self) -> None:
        """The time of the step under way is not only its own: validation begins."""
        self._undisturbed = False

    def now(self) -> float:
        """What steps and the suite are timed with: on a CPU the time of this thread, which no other process lengthens.

        On an accelerator the wall clock; while the cadence is being chosen, once the device has done what it was given.
        """
        if self._device().type == "cpu":
            return time.thread_time()
        if self.cadence is not None and not self.cadence.frozen:
            torch.accelerator.synchronize()
        return time.perf_counter()
