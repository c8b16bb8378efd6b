"""The complete record of a run as JSON lines: versioned, appended, readable while it is written and after a crash."""

import contextlib
import io
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from logitwatch.sinks.readings import Reading
from logitwatch.sinks.records import SCHEMA as SCHEMA
from logitwatch.sinks.records import as_reading as as_reading
from logitwatch.sinks.records import read_jsonl as read_jsonl
from logitwatch.sinks.report_lines import ReportLines
from logitwatch.sinks.rewinding import misfit, move_tail
from logitwatch.sinks.room import require_room
from logitwatch.sinks.seals import sealed
from logitwatch.sinks.sessions import began, begun, write_all

__all__ = ["JsonlSink"]

_logger = logging.getLogger("logitwatch")


class JsonlSink:
    """Appends one line a reading, one a tag for scalars, in one write a report.

    Every line has ``kind``, ``tag``, ``step``, ``time`` (seconds since 1970), the fields of its reading and, last,
    ``crc``, the checksum of the bytes before it (`logitwatch.sinks.seals`); the unit is on every line, the meaning on
    the first line of a tag in a session (`read_jsonl` gives it back on all). A session begins with
    ``{"schema": 1, "kind": "header", "version": ...}``. NaN and the infinities are the strings ``"NaN"``,
    ``"Infinity"``, ``"-Infinity"``. Of a figure only the tag is kept, for it is drawn from the numbers beside it.

    A report is with the operating system when `write` returns, so a killed process loses at most the one in hand;
    that it is on the disk, where a power cut spares it, is waited for in `close` alone. After a write that failed the
    next begins a session. Where the file cannot be written, or less than `logitwatch.sinks.room.RESERVE` is left, the
    record goes on, once, in a fresh temporary folder, and a warning says where.

    Args:
        path: The file. It and its folder are made at the first write; an existing file is continued.

    Attributes:
        path: The file in use.

    Examples:
        >>> from logitwatch.sinks.readings import Scalars
        >>> path = os.path.join(tempfile.mkdtemp(), "logitwatch.jsonl")
        >>> sink = JsonlSink(path)
        >>> sink.write([Scalars(values={"logits/val/entropy": float("nan")}, step=3)])
        >>> sink.close()
        >>> header, record = read_jsonl(path)
        >>> header["schema"], record["tag"], record["step"], record["value"], record["unit"]
        (1, 'logits/val/entropy', 3, nan, 'nats')
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file: io.FileIO | None = None
        self._lines = ReportLines()
        self._began: float | None = None
        self._position: tuple[str, int, float | None] | None = None
        self._has_moved = False

    def write(self, readings: Sequence[Reading]) -> None:
        """See `Sink.write`. Raises OSError only where neither the file nor a temporary folder can be written."""
        try:
            self._append(readings)
        except OSError as error:
            if self._has_moved:
                raise
            self._move(error, readings)

    def close(self) -> None:
        """See `Sink.close`. Returns when the disk has everything; a later `write` opens a new session in the file."""
        file, self._file = self._file, None
        if file is not None:
            with file:
                os.fsync(file.fileno())

    def position(self) -> dict[str, str | int | float]:
        """Where the record is now, for a checkpoint: plain values `rewind` takes; empty before anything was written.

        ``write([])`` writes a header, so that there is a position before the first report.

        Returns:
            ``path``, absolute; ``offset``, bytes so far; ``began``, the time in the first header of the file.
        """
        if self._position is None:
            return {}
        path, offset, start = self._position
        return {} if start is None else {"path": os.path.abspath(path), "offset": offset, "began": start}

    def rewind(self, position: Mapping[str, Any]) -> None:
        """Take the record back to a `position`, before the first write of a run that goes on from there.

        What follows is moved to ``<stem>.replayed.jsonl`` beside the file, a record of its own. Where the file is
        there and is not the one the position was taken of, nothing changes and a warning says why.
        """
        self.close()
        if not os.path.exists(self.path):
            return
        try:
            reason = misfit(self.path, position)
            if not reason:
                move_tail(self.path, position["offset"])
                self._position = (self.path, position["offset"], position["began"])
        except OSError as error:
            reason = str(error)
        if reason:
            _logger.warning("%s is not taken back to %s: %s; steps may be in it twice", self.path, position, reason)

    def _append(self, readings: Sequence[Reading]) -> None:
        now = f"{time.time():.3f}"
        try:
            require_room(self.path)
            file, opening = (self._file, b"") if self._file else self._open(now)
            data = opening + sealed(self._lines.of(readings, now))
            if data:
                write_all(file, data)
                self._position = (self.path, file.tell(), self._began)
        except BaseException:
            # Half a report may be in the file, or a tag be taken for explained that is not: begin anew.
            if self._file:
                with contextlib.suppress(OSError):
                    self._file.close()
                self._file = None
            raise

    def _open(self, now: str) -> tuple[io.FileIO, bytes]:
        self._file, opening = begun(self.path, now)
        self._lines = ReportLines()
        self._began = float(now) if os.fstat(self._file.fileno()).st_size == 0 else began(self.path)
        return self._file, opening

    def _move(self, error: OSError, readings: Sequence[Reading]) -> None:
        former, folder = self.path, tempfile.mkdtemp(prefix="logitwatch-")
        self.path = os.path.join(folder, os.path.basename(former))
        try:
            self._append(readings)
        except BaseException:
            self.path = former
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._has_moved = True
        _logger.warning("%s cannot be written, %s; the record goes on in %s", former, error, self.path)
