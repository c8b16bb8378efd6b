"""Takes a record back to where it was when a checkpoint was saved: what is replayed is in it once."""

import os
import time
from collections.abc import Mapping
from typing import Any

from logitwatch.sinks.room import require_room
from logitwatch.sinks.sessions import began, begun, write_all

__all__ = ["misfit", "move_tail", "replayed_path"]

_BLOCK = 1 << 20


def misfit(path: str, position: Any) -> str:
    """Why a position is not one of this file; empty where it is.

    Args:
        path: A file that exists.
        position: What `JsonlSink.position` returned, perhaps in another process; or anything.

    Examples:
        >>> misfit("x.jsonl", {"offset": "many"})
        'it is no position'
    """
    offset, start = (position.get("offset"), position.get("began")) if isinstance(position, Mapping) else (None, None)
    if type(offset) is not int or offset <= 0 or type(start) not in (int, float):
        return "it is no position"
    if began(path) != start:
        return f"the file began at {began(path)}, not at {start}"
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < offset:
            return f"the file has {size} bytes, fewer than {offset}"
        file.seek(offset - 1)
        return "" if file.read(1) == b"\n" else f"no line ends at byte {offset}"


def move_tail(path: str, offset: int) -> None:
    """Move what follows ``offset`` to a session of its own in `replayed_path`; nothing where nothing follows.

    The copy is on the disk before the file is cut: a crash in between leaves the tail in both, never in neither.

    Raises:
        OSError: If it cannot be copied; the file is whole then.
    """
    target = replayed_path(path)
    with open(path, "r+b") as record:
        if record.seek(0, os.SEEK_END) == offset:
            return
        record.seek(offset)
        require_room(target)
        file, opening = begun(target, f"{time.time():.3f}")
        with file:
            write_all(file, opening)
            while block := record.read(_BLOCK):
                write_all(file, block)
            os.fsync(file.fileno())
        record.truncate(offset)
        os.fsync(record.fileno())


def replayed_path(path: str) -> str:
    """Where the replayed part of a record goes.

    Examples:
        >>> replayed_path("run/logitwatch.jsonl")
        'run/logitwatch.replayed.jsonl'
    """
    return f"{os.path.splitext(path)[0]}.replayed.jsonl"
