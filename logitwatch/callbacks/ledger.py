"""What the suite costs and how much of the data it has seen: the suite watching itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from logitwatch.states.protocol import merge_fields, summed

__all__ = ["Account", "Ledger"]

ENTRIES = ("seconds", "own_seconds", "steps", "looks", "rows", "sampled", "faults", "dropped")


@dataclass(frozen=True)
class Account:
    """Time, rows and losses of the suite on any number of ranks; see `State`.

    Examples:
        >>> one = Account.of(seconds=10, own_seconds=0.1, steps=10, looks=2, rows=64, sampled=32)
        >>> both = one.merge(Account.of(seconds=10, own_seconds=0.3, steps=10, looks=2, rows=64, sampled=32, faults=1))
        >>> both.values()
        {'logitwatch/overhead': 0.02, 'logitwatch/coverage': 0.1, 'logitwatch/faults': 1.0, 'logitwatch/dropped': 0.0}
    """

    entries: Tensor = summed()  # float64, in the order of ENTRIES

    @classmethod
    def empty(cls) -> Account:
        """See `State.empty`."""
        return cls(torch.zeros(len(ENTRIES), dtype=torch.float64))

    @classmethod
    def of(cls, **entries: float) -> Account:
        """The account of some `ENTRIES`; the others are 0."""
        return cls(torch.tensor([entries.get(name, 0.0) for name in ENTRIES], dtype=torch.float64))

    def merge(self, other: Account) -> Account:
        """See `State.merge`."""
        return merge_fields(self, other)

    def values(self) -> dict[str, float]:
        """What is logged: fractions of step time and of rows, and the counts; no coverage where nothing was looked at.

        Rows of the steps not looked at are taken to be as many as of those that were.
        """
        of = dict(zip(ENTRIES, self.entries.tolist(), strict=True))
        values = {"logitwatch/overhead": of["own_seconds"] / max(1e-9, of["seconds"])}
        if of["rows"]:
            rows = of["rows"] / of["looks"] * max(of["steps"], of["looks"])
            values["logitwatch/coverage"] = of["sampled"] / rows
        return values | {"logitwatch/faults": of["faults"], "logitwatch/dropped": of["dropped"]}


class Ledger:
    """Time and rows of the training steps since the last report.

    Args:
        clock: What both the suite and the steps are timed with.

    Examples:
        >>> ledger = Ledger()
        >>> for _ in range(10):
        ...     ledger.step()
        >>> ledger.looked(rows=64, sampled=32)
        >>> round(ledger.balance(faults=0, dropped=0).values()["logitwatch/coverage"], 3)  # 32 of ten times 64 rows
        0.05
        >>> sorted(ledger.balance(faults=0, dropped=0).values())  # nothing was looked at since
        ['logitwatch/dropped', 'logitwatch/faults', 'logitwatch/overhead']
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = clock()
        self._paused: float | None = None
        self._own = self._elsewhere = 0.0
        self._steps = self._looks = self._rows = self._sampled = 0

    def step(self) -> None:
        """A training step begins."""
        self._steps += 1

    def looked(self, *, rows: int, sampled: int) -> None:
        """A step was looked at: it had so many rows, and of so many the distribution was taken."""
        self._looks += 1
        self._rows += rows
        self._sampled += sampled

    def spent(self, seconds: float, *, elsewhere: float = 0.0) -> None:
        """The suite itself took so long, and so much more in threads whose time the clock does not show."""
        self._own += seconds + elsewhere
        self._elsewhere += elsewhere

    def pause(self) -> None:
        """Validation begins, whose time is not that of training steps."""
        self._paused = self._clock()

    def resume(self) -> None:
        """Validation is over."""
        if self._paused is not None:
            self._began += self._clock() - self._paused
            self._paused = None

    def balance(self, *, faults: int, dropped: int) -> Account:
        """The account since the last balance, which begins the next. What was lost is counted over the whole run."""
        now = self._clock()
        account = Account.of(
            seconds=now - self._began + self._elsewhere,
            own_seconds=self._own,
            steps=self._steps,
            looks=self._looks,
            rows=self._rows,
            sampled=self._sampled,
            faults=faults,
            dropped=dropped,
        )
        self._began, self._own, self._elsewhere = now, 0.0, 0.0
        self._steps = self._looks = self._rows = self._sampled = 0
        return account
