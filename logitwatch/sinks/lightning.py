"""Any other logger of Lightning: the scalars, and one remark about the rest."""

from collections.abc import Sequence
from typing import Any

from logitwatch.sinks.notices import Notices
from logitwatch.sinks.readings import Reading, Scalars

__all__ = ["LightningSink"]


class LightningSink:
    """Sends scalars through ``logger.log_metrics``, one call a step, and saves. The rest is left to the JSONL file.

    Args:
        logger: Anything with ``log_metrics(metrics, step)`` and maybe ``save()``. Its own prefix is applied by itself.

    Examples:
        >>> class Printer:
        ...     def log_metrics(self, metrics, step):
        ...         print(step, metrics)
        >>> LightningSink(Printer()).write([Scalars(values={"a": 1.0}, step=2), Scalars(values={"b": 2.0}, step=2)])
        2 {'a': 1.0, 'b': 2.0}
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._notices = Notices(type(logger).__name__)

    def write(self, readings: Sequence[Reading]) -> None:
        """See `Sink.write`."""
        by_step: dict[int, dict[str, float]] = {}
        for reading in readings:
            if isinstance(reading, Scalars):
                by_step.setdefault(reading.step, {}).update(reading.values)
            else:
                kind = type(reading).__name__
                self._notices.once(kind, f"shows scalars alone; each {kind} is in logitwatch.jsonl of the log folder")
        told = {step: metrics for step, metrics in by_step.items() if metrics}
        for step, metrics in told.items():
            self._logger.log_metrics(metrics, step)
        # As the Trainer does: until then the logger may keep what it was told in memory, for as long as a run lasts.
        if told and hasattr(self._logger, "save"):
            self._logger.save()

    def close(self) -> None:
        """See `Sink.close`. Every report was saved."""
