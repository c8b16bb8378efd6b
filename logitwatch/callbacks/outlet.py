"""The way out: readings go to every sink of the run; one that fails or dawdles harms neither it nor the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from logitwatch.callbacks.courier import Courier, Messenger
from logitwatch.callbacks.faults import Faults
from logitwatch.sinks.jsonl import JsonlSink
from logitwatch.sinks.lightning import LightningSink
from logitwatch.sinks.opening import log_folder, open_sinks
from logitwatch.sinks.protocol import Sink
from logitwatch.sinks.readings import Reading

__all__ = ["Outlet"]


class Outlet:
    """The sinks of one run, opened at the first use; none on a rank other than 0.

    Each sink has a thread of its own, so that the training waits for none. A logger of unknown make is called in the
    thread of the training instead, as Lightning calls it: it need not bear to be called from two.
    """

    def __init__(self, trainer: Any, faults: Faults) -> None:
        self._trainer = trainer
        self._faults = faults
        self._lines: list[Courier | Messenger] | None = None
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Readings a sink could not take."""
        return self._dropped + sum(line.dropped for line in self._lines or [])

    def open(self) -> None:
        """Find the sinks from the loggers, once."""
        if self._lines is not None:
            return
        self._lines, loggers = [], list(self._trainer.loggers) if self._trainer.is_global_zero else []
        for logger in loggers:  # some name their folder only when their experiment exists
            self._faults.attempt(f"logger {type(logger).__name__}", getattr, logger, "experiment", None, otherwise=None)
        sinks = self._faults.attempt("opening of the sinks", _opened, loggers, otherwise=[])
        for index, sink in enumerate(sinks):
            line = Messenger if isinstance(sink, LightningSink) else Courier
            self._lines.append(line(sink, f"sink {index} {type(sink).__name__}", self._faults))

    def write(self, readings: Sequence[Reading], *, again: bool = False, charged: bool = True) -> None:
        """Send one report to every sink; ``again``, where sending it was interrupted, to those that lack it.

        What it takes is in `worked` where it is ``charged``.
        """
        if not readings:
            return
        self.open()
        for line in self._lines or []:
            if not (again and line.has(readings)):
                line.send(readings, charged=charged)
        self._let_out()

    def worked(self) -> float:
        """Seconds of processor time the threads of the sinks took for what was charged, since this was last asked."""
        return sum(line.worked() for line in self._lines or [])

    def position(self) -> dict[str, Any]:
        """Where the record of the run stands now; empty where there is none, or it is behind."""
        for line in self._lines or []:
            if isinstance(line.sink, JsonlSink) and line.drain(timeout=1.0):
                return line.sink.position()
        return {}

    def rewind(self, position: Mapping[str, Any]) -> None:
        """Open the record, without what was written to it after a checkpoint: that is about to be written again."""
        self.open()
        for line in self._lines or []:
            if isinstance(line.sink, JsonlSink):
                if position:
                    line.sink.rewind(position)
                line.send([])  # its beginning, so that a checkpoint finds a position from the first step on

    def close(self) -> None:
        """Flush every sink; the next write opens them anew."""
        lines, self._lines = self._lines or [], None
        for line in lines:
            line.close()
        self._dropped += sum(line.dropped for line in lines)
        self._let_out(lines)

    def _let_out(self, lines: Sequence[Courier | Messenger] | None = None) -> None:
        """Raise what a thread could not, where faults are to be raised."""
        for line in self._lines or [] if lines is None else lines:
            error, line.failed = line.failed, None
            if error is not None:
                raise error


def _opened(loggers: Sequence[Any]) -> list[Sink]:
    return open_sinks(loggers, log_folder(loggers))
