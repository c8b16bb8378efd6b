"""The one boundary between the suite's mistakes and the run: isolate, count, tell once, disarm."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator

__all__ = ["Faults"]

logger = logging.getLogger("logitwatch")

# Faults after which a part of the suite is no longer called.
DISARM_AFTER = 3


class Faults:
    """Counts exceptions by where they happened; nothing but ``on_fault="raise"`` lets one out.

    ``Exception`` is caught, not ``BaseException``: an interrupt or a termination is the user's and passes.

    Examples:
        >>> logging.disable()
        >>> faults = Faults()
        >>> for _ in range(4):
        ...     if faults.armed("monitor"):
        ...         with faults.isolated("monitor"):
        ...             raise RuntimeError("boom")
        >>> faults.count, faults.armed("monitor")
        (3, False)
        >>> logging.disable(logging.NOTSET)
    """

    def __init__(self, on_fault: str = "isolate") -> None:
        self.on_fault = on_fault
        self._by_place: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many exceptions were isolated."""
        return sum(self._by_place.values())

    def armed(self, place: str) -> bool:
        """Whether a place may still be called."""
        return self._by_place[place] < DISARM_AFTER

    @contextlib.contextmanager
    def isolated(self, place: str) -> Iterator[None]:
        """Keep an exception of the body from the run."""
        try:
            yield
        except Exception:
            self.note(place)

    def note(self, place: str) -> None:
        """Count the exception being handled and tell of it; raises it again where faults are to be raised."""
        self._by_place[place] += 1
        if self.on_fault == "raise":
            raise
        if self._by_place[place] == 1:
            logger.exception("logitwatch: %s failed; training goes on, further faults are only counted", place)
        elif self._by_place[place] == DISARM_AFTER:
            logger.error("logitwatch: %s failed %d times and is switched off", place, DISARM_AFTER)
