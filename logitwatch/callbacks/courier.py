"""How reports reach one sink without the training waiting for it: a bounded queue and a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from logitwatch.callbacks.faults import Faults
from logitwatch.sinks.protocol import Sink
from logitwatch.sinks.readings import Reading

__all__ = ["Courier", "Messenger"]

logger = logging.getLogger("logitwatch")

# Reports that may wait for a slow sink; the oldest are dropped first, since a live dashboard wants the newest.
MOST_WAITING = 64
# How long the end of a run waits for a sink that is behind.
PATIENCE = 5.0


class Messenger:
    """Writes each report to its sink at once, in the thread that trains.

    For a sink that cannot be called from another thread. It may cost ``share`` of the time and no more: after a call
    that took long, reports are dropped until it has been paid for.

    Attributes:
        place: Name of the sink in the faults.
        dropped: Readings the sink did not get.
        failed: An exception that is to be let out, see ``on_fault``; always None here.
    """

    failed: Exception | None = None

    def __init__(self, sink: Sink, place: str, faults: Faults, *, share: float = 0.01) -> None:
        self.sink, self.place = sink, place
        self._faults = faults
        self._share = share
        self._silent_until = -float("inf")
        self.dropped = 0

    def send(self, readings: Sequence[Reading], *, charged: bool = True) -> None:
        """Write one report, or count it as dropped."""
        began = time.perf_counter()
        written = False
        if began >= self._silent_until and self._faults.armed(self.place):
            written = self._faults.attempt(self.place, _written, self.sink, readings, otherwise=False)
            took = time.perf_counter() - began
            if took > PATIENCE * self._share:
                self._silent_until = began + took / self._share
        self.dropped += 0 if written else len(readings)

    def has(self, readings: Sequence[Reading]) -> bool:
        """Whether a report that was being sent is known to be written whole: never."""
        return False

    def worked(self) -> float:
        """Seconds of work elsewhere since this was last asked: none."""
        return 0.0

    def drain(self, timeout: float = PATIENCE) -> bool:
        """Whether everything sent has been written, which it always has."""
        return True

    def close(self) -> None:
        """Flush the sink."""
        self._faults.attempt(f"closing of {self.place}", self.sink.close, otherwise=None)


class Courier:
    """Hands reports to a thread that writes them to one sink, in order; sending never waits.

    The thread begins with the first report and ends with `close`. A full queue drops its oldest report, and counts it.

    Attributes:
        place: Name of the sink in the faults.
        dropped: Readings the sink did not get: it failed, was switched off, or was too slow.
        failed: An exception that is to be let out in the training's thread, where ``on_fault`` is ``raise``.

    Examples:
        >>> from logitwatch.sinks.memory import MemorySink
        >>> from logitwatch.sinks.readings import Scalars
        >>> courier = Courier(MemorySink(), "sink", Faults())
        >>> courier.send([Scalars(values={"a": 1.0}, step=0)])
        >>> courier.close()
        >>> courier.sink.history, courier.dropped
        ({'a': [(0, 1.0)]}, 0)
    """

    def __init__(self, sink: Sink, place: str, faults: Faults) -> None:
        self.sink, self.place = sink, place
        self._faults = faults
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Sequence[Reading], bool]] = deque()
        self._taken: Sequence[Reading] | None = None
        self._busy = self._closing = False
        self._thread: threading.Thread | None = None
        self._worked = 0.0
        self.dropped = 0
        self.failed: Exception | None = None

    def send(self, readings: Sequence[Reading], *, charged: bool = True) -> None:
        """Put a report into the queue; ``charged``, if the time it takes is the training's to account for."""
        with self._changed:
            if self._closing or not self._faults.armed(self.place):
                self.dropped += len(readings)
                return
            if len(self._waiting) >= MOST_WAITING:
                self.dropped += len(self._waiting.popleft()[0])
            self._waiting.append((readings, charged))
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"logitwatch {self.place}", daemon=True)
            self._thread.start()

    def has(self, readings: Sequence[Reading]) -> bool:
        """Whether this very report was the last one sent."""
        with self._changed:
            return readings is (self._waiting[-1][0] if self._waiting else self._taken)

    def worked(self) -> float:
        """Seconds of processor time the thread has taken for what was charged, since this was last asked."""
        with self._changed:
            worked, self._worked = self._worked, 0.0
        return worked

    def drain(self, timeout: float = PATIENCE) -> bool:
        """Wait until all that was sent is written; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._busy), timeout)

    def close(self) -> None:
        """Write what is waiting, flush the sink and end the thread; a sink that takes too long is left behind."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is None:
            self._close_sink()
            return
        self._thread.join(PATIENCE)
        with self._changed:
            if self._thread.is_alive():
                lost = sum(len(readings) for readings, _ in self._waiting)
                self.dropped += lost
                self._waiting.clear()
                text = "logitwatch: %s was still busy %g seconds after the run; %d readings are dropped"
                logger.warning(text, self.place, PATIENCE, lost)

    def _run(self) -> None:
        while (report := self._next()) is not None:
            readings, charged = report
            began = time.thread_time()
            written = False
            try:
                if self._faults.armed(self.place):
                    written = self._faults.attempt(self.place, _written, self.sink, readings, otherwise=False)
            except Exception as error:
                self.failed = error
            with self._changed:
                self._worked += charged * (time.thread_time() - began)
                self.dropped += 0 if written else len(readings)
                self._busy = False
                self._changed.notify_all()
        self._close_sink()

    def _next(self) -> tuple[Sequence[Reading], bool] | None:
        """The oldest report; waits for one, and gives None when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            self._busy = True
            report = self._waiting.popleft()
            self._taken = report[0]
            return report

    def _close_sink(self) -> None:
        try:
            self._faults.attempt(f"closing of {self.place}", self.sink.close, otherwise=None)
        except Exception as error:
            self.failed = error


def _written(sink: Sink, readings: Sequence[Reading]) -> bool:
    sink.write(readings)
    return True
