"""The sink that keeps everything: for notebooks and for tests."""

from collections.abc import Sequence

from logitwatch.sinks.readings import Reading, Scalars

__all__ = ["MemorySink"]


class MemorySink:
    """Keeps every reading, and the history of every scalar.

    Attributes:
        readings: All readings, in the order they came.
        history: ``history[tag]`` is the list of ``(step, value)`` of a scalar.
        reports: How many times `write` was called.

    Examples:
        >>> sink = MemorySink()
        >>> sink.write([Scalars(values={"logits/train/entropy": 0.5}, step=10)])
        >>> sink.write([])
        >>> sink.history["logits/train/entropy"], sink.reports
        ([(10, 0.5)], 2)
    """

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.history: dict[str, list[tuple[int, float]]] = {}
        self.reports = 0

    def write(self, readings: Sequence[Reading]) -> None:
        """See `Sink.write`."""
        self.reports += 1
        self.readings.extend(readings)
        for reading in readings:
            if isinstance(reading, Scalars):
                for tag, value in reading.values.items():
                    self.history.setdefault(tag, []).append((reading.step, value))

    def close(self) -> None:
        """See `Sink.close`. Nothing is forgotten."""
