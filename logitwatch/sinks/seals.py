"""The checksum each line of a record ends with, and the one that closes a line that was cut short.

A line ``{...}`` is sealed as ``{...,"crc":"xxxxxxxx"}``: CRC-32C, in hexadecimal, of the bytes before ``,"crc":``. It
finds every change of one bit, and all but one in four thousand million of any other. What a killed process left of a
line is closed with ``,"torn":"xxxxxxxx"}`` before the next line begins, so that a cut is never taken for damage, nor
damage for a cut.
"""

import struct
from collections.abc import Sequence

from logitwatch.sinks.checksum import crc32c

__all__ = ["closing", "holds_whole_line", "is_torn_line", "is_whole_line", "sealed"]

_CRC, _TORN, _END = b',"crc":"', b',"torn":"', b'"}\n'


def sealed(bodies: Sequence[bytes]) -> bytes:
    """Lines, each with its checksum and a newline.

    Args:
        bodies: JSON objects on one line each, without their last brace.

    Examples:
        >>> sealed([b'{"kind":"scalar"'])
        b'{"kind":"scalar","crc":"61cd98fe"}\\n'
        >>> sealed([])
        b''
    """
    count = len(bodies)
    pieces = [b"", _CRC, b"", _END] * count
    pieces[::4] = bodies
    # One hex() for all: digits formatted line by line would cost more than the checksums.
    pieces[2::4] = struct.pack(f">{count}I", *map(crc32c(), bodies)).hex(",", 4).encode().split(b",")[:count]
    return b"".join(pieces)


def is_whole_line(line: bytes) -> bool:
    """Whether a line, newline included, is as `sealed` made it.

    Examples:
        >>> is_whole_line(sealed([b'{"a":1'])), is_whole_line(b'{"a":1}' + bytes([10]))
        (True, False)
    """
    return _is_sealed(line, _CRC)


def is_torn_line(line: bytes) -> bool:
    """Whether a line, newline included, was cut short and closed since by `closing`.

    Examples:
        >>> is_torn_line(b'{"a":' + closing(b'{"a":'))
        True
    """
    return _is_sealed(line, _TORN)


def holds_whole_line(remains: bytes) -> bool:
    """Whether the last bytes of a file, which end in no newline, begin with a whole line: its newline is damaged.

    Examples:
        >>> holds_whole_line(sealed([b'{"a":1'])[:-1]), holds_whole_line(sealed([b'{"a":1'])[:-2])
        (True, False)
    """
    start = remains.find(_CRC)  # not in a string: JSON escapes the quotes there
    end = start + len(_CRC) + 8 + len(_END) - 1
    return start >= 0 and is_whole_line(remains[:end] + b"\n")


def closing(remains: bytes) -> bytes:
    """What closes the last bytes of a file, which end in no newline, before a line may follow.

    Examples:
        >>> closing(b""), closing(b'{"kind":"sca'), closing(sealed([b'{"a":1'])[:-1])
        (b'', b',"torn":"eb63f884"}\\n', b'\\n')
    """
    if not remains:
        return b""
    # A torn seal would say that nothing was lost here, of a line that is whole or was damaged.
    return b"\n" if holds_whole_line(remains) else _seal(remains, _TORN)


def _is_sealed(line: bytes, key: bytes) -> bool:
    length = len(key) + 8 + len(_END)
    return line[-length:] == _seal(line[:-length], key)


def _seal(data: bytes, key: bytes) -> bytes:
    return b"%b%08x%b" % (key, crc32c()(data), _END)
