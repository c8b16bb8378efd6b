"""The sessions of a record: each begins with a header, after whatever a former one left of its last line."""

import io
import json
import os

from logitwatch import __version__
from logitwatch.sinks.records import SCHEMA
from logitwatch.sinks.seals import closing, is_whole_line, sealed

__all__ = ["began", "begun", "write_all"]

_LONGEST_HEADER = 4096
_BLOCK = 1 << 16


def begun(path: str, now: str) -> tuple[io.FileIO, bytes]:
    """A file opened for appending, unbuffered, and the bytes that begin a session in it; nothing is written yet.

    Args:
        path: The file. It and its folder are made where they are missing.
        now: Seconds since 1970 in decimals, for the header.

    Raises:
        OSError: If the file cannot be opened.

    Examples:
        >>> import tempfile
        >>> file, opening = begun(os.path.join(tempfile.mkdtemp(), "made", "x.jsonl"), "17.250")
        >>> file.close()
        >>> opening.startswith(b'{"schema":1,"kind":"header","version":"'), b',"time":17.250,"crc":' in opening
        (True, True)
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    header = f'{{"schema":{SCHEMA},"kind":"header","version":{json.dumps(__version__)},"time":{now}'
    file = io.FileIO(path, "a")
    try:
        return file, closing(_remains(path)) + sealed([header.encode()])
    except BaseException:
        file.close()
        raise


def began(path: str) -> float | None:
    """When the first session of a file began, in seconds since 1970; None for a file that is not a record.

    Examples:
        >>> began("no/such/file.jsonl") is None
        True
    """
    try:
        with open(path, "rb") as file:
            line = file.readline(_LONGEST_HEADER)
        if not is_whole_line(line):
            return None
        header = json.loads(line)
        return float(header["time"]) if header["kind"] == "header" else None
    except (OSError, ValueError, TypeError, LookupError):
        return None


def write_all(file: io.FileIO, data: bytes) -> None:
    """Write everything, in one call of the operating system where it can; after a short write the rest names the error.

    Raises:
        OSError: If some of it could not be written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _remains(path: str) -> bytes:
    """The bytes after the last newline."""
    with open(path, "rb") as file:
        start = file.seek(0, os.SEEK_END)
        remains = b""
        while start and b"\n" not in remains:
            end, start = start, max(0, start - _BLOCK)
            file.seek(start)
            remains = file.read(end - start) + remains
    return remains[remains.rfind(b"\n") + 1 :]
