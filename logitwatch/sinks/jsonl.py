"""The complete record of a run as JSON lines: versioned, appended, readable while it is written and after a crash."""

import contextlib
import io
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence

from logitwatch.sinks.readings import Reading
from logitwatch.sinks.records import SCHEMA as SCHEMA
from logitwatch.sinks.records import as_reading as as_reading
from logitwatch.sinks.records import read_jsonl as read_jsonl
from logitwatch.sinks.report_lines import ReportLines
from logitwatch.sinks.room import require_room
from logitwatch.sinks.seals import sealed
from logitwatch.sinks.sessions import begun, write_all

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

    def _append(self, readings: Sequence[Reading]) -> None:
        now = f"{time.time():.3f}"
        try:
            require_room(self.path)
            file, opening = (self._file, b"") if self._file else self._open(now)
            data = opening + sealed(self._lines.of(readings, now))
            if data:
                write_all(file, data)
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
