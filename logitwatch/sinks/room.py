"""How much may still be written to a file, so that a monitor is never the one who fills the disk."""

import errno
import math
import os
import shutil

__all__ = ["RESERVE", "require_room", "room"]

RESERVE = 16 * 2**20
"""Bytes left to whoever else writes to the disk. Less room than this is a full disk."""


def room(path: str | os.PathLike[str]) -> float:
    """Bytes that may still be written to a file, by its disk and by the process's limit on the size of a file.

    Args:
        path: The file. Neither it nor its folder need be there.

    Returns:
        At least 0; infinite where it cannot be known, as behind a URL.

    Examples:
        >>> room("no/such/folder/file.jsonl") > 0, room("gs://bucket/file.jsonl")
        (True, inf)
    """
    path = os.fspath(path)
    if "://" in path:
        return math.inf
    return max(0.0, min(_free(path), _allowed(path)))


def require_room(path: str | os.PathLike[str]) -> None:
    """Raise OSError (ENOSPC) where less than `RESERVE` is left for a file.

    Examples:
        >>> require_room("no/such/folder/file.jsonl")
    """
    left = room(path)
    if left < RESERVE:
        raise OSError(errno.ENOSPC, f"less than {RESERVE >> 20} MiB left, {left:.0f} bytes", os.fspath(path))


def _free(path: str) -> float:
    while True:
        try:
            return float(shutil.disk_usage(path or os.curdir).free)
        except (FileNotFoundError, NotADirectoryError):
            child, path = path, os.path.dirname(path)
            if path == child:
                return math.inf
        except OSError:
            return math.inf


def _allowed(path: str) -> float:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return math.inf
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    try:
        return float(limit - os.path.getsize(path))
    except OSError:
        return float(limit)
