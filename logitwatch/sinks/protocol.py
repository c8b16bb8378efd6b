"""What a sink is."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from logitwatch.sinks.readings import Reading

__all__ = ["Sink"]


@runtime_checkable
class Sink(Protocol):
    """A place readings go. One call of `write` is one report: everything of one moment, so a backend may batch it.

    A sink renders natively what its backend can. What it cannot it degrades (a histogram to its quantiles, a curve to
    nothing but what the scalars already say) and says so once. It writes tags as they come; a logger's own prefix is
    the sink's business. Sinks exist on rank 0 alone.
    """

    def write(self, readings: Sequence[Reading]) -> None:
        """Write one report. May raise; the caller isolates and counts it."""
        ...

    def close(self) -> None:
        """Flush. May be called more than once, and `write` may follow (a second fit)."""
        ...
