"""The one boundary between the suite's mistakes and the run: isolate, count, tell once, disarm."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

__all__ = ["Faults", "StabilityError"]

T = TypeVar("T")
D = TypeVar("D")

logger = logging.getLogger("logitwatch")

# Faults after which a part of the suite is no longer called.
DISARM_AFTER = 3


class StabilityError(RuntimeError):
    """Raised by a monitor that was told to end the run by it: no fault, and kept from nobody."""


class Faults:
    """Counts exceptions by where they happened; nothing but ``on_fault="raise"`` lets one out.

    ``Exception`` is caught, not ``BaseException``: an interrupt or a termination is the user's and passes. Threads may
    share one.

    Attributes:
        inject: For `logitwatch.testing`: called with the place before and after every attempt, and free to raise.

    Examples:
        >>> logging.disable()
        >>> faults = Faults()
        >>> [faults.attempt("monitor", int, "one", otherwise=0) for _ in range(3)]
        [0, 0, 0]
        >>> faults.count, faults.armed("monitor")
        (3, False)
        >>> logging.disable(logging.NOTSET)
    """

    inject: ClassVar[Callable[[str], None] | None] = None

    def __init__(self, on_fault: str = "isolate") -> None:
        self.on_fault = on_fault
        self._by_place: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many exceptions were isolated."""
        return sum(self._by_place.values())

    def absorb(self, other: Faults) -> None:
        """Count what another has counted, once."""
        if other is not self:
            with self._lock:
                self._by_place.update(other._by_place)
                other._by_place.clear()

    def armed(self, place: str) -> bool:
        """Whether a place may still be called."""
        return self._by_place[place] < DISARM_AFTER

    def attempt(self, place: str, call: Callable[..., T], *args: Any, otherwise: D) -> T | D:
        """What a call returns, or ``otherwise`` where it fails: its exception is kept from the run."""
        inject = Faults.inject
        try:
            if inject is not None:
                inject(place)
            result = call(*args)
            if inject is not None:
                inject(place)
        except StabilityError:
            raise
        except Exception:
            self.note(place)
            return otherwise
        return result

    @contextlib.contextmanager
    def skeleton(self, place: str) -> Iterator[None]:
        """Keep an exception of the body from the run: for what all ranks do together, with attempts inside.

        Nothing is injected here, since one rank that fails half-way in this would leave the others waiting.
        """
        try:
            yield
        except StabilityError:
            raise
        except Exception:
            self.note(place)

    def note(self, place: str) -> None:
        """Count the exception being handled and tell of it; raises it again where faults are to be raised."""
        with self._lock:
            self._by_place[place] += 1
            times = self._by_place[place]
        if self.on_fault == "raise":
            raise
        if times == 1:
            logger.exception("logitwatch: %s failed; training goes on, further faults are only counted", place)
        elif times == DISARM_AFTER:
            logger.error("logitwatch: %s failed %d times and is switched off", place, DISARM_AFTER)
