"""The way out: readings go to every sink of the run, and a sink that fails harms neither the run nor the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from logitwatch.callbacks.faults import Faults
from logitwatch.sinks.opening import log_folder, open_sinks
from logitwatch.sinks.protocol import Sink
from logitwatch.sinks.readings import Reading

__all__ = ["Outlet"]


class Outlet:
    """The sinks of one run, opened at the first use; none on a rank other than 0.

    Attributes:
        dropped: Readings a sink could not take.
    """

    def __init__(self, trainer: Any, faults: Faults) -> None:
        self._trainer = trainer
        self._faults = faults
        self._sinks: list[Sink] | None = None
        self._loggers: list[Any] = []
        self.dropped = 0

    def open(self) -> list[Sink]:
        """The sinks, found from the loggers; found again where these were exchanged, as tuners do for a while."""
        loggers = list(self._trainer.loggers) if self._trainer.is_global_zero else []
        if self._sinks is None or loggers != self._loggers:
            self.close()
            self._sinks, self._loggers = [], loggers
            for logger in loggers:  # some name their folder only when their experiment exists
                with self._faults.isolated(f"logger {type(logger).__name__}"):
                    _ = logger.experiment
            with self._faults.isolated("opening of the sinks"):
                self._sinks = open_sinks(loggers, log_folder(loggers))
        return self._sinks

    def write(self, readings: Sequence[Reading]) -> None:
        """Write one report to every sink."""
        for index, sink in enumerate(self.open() if readings else []):
            place = f"sink {index} {type(sink).__name__}"
            written = False
            if self._faults.armed(place):
                with self._faults.isolated(place):
                    sink.write(readings)
                    written = True
            self.dropped += 0 if written else len(readings)

    def close(self) -> None:
        """Flush every sink; the next write opens them anew."""
        for sink in self._sinks or []:
            with self._faults.isolated(f"sink {type(sink).__name__}"):
                sink.close()
        self._sinks = None
