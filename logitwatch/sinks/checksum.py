"""The checksum of TensorBoard's records and of ours, computed in C.

TensorBoard computes CRC-32C in Python: 141 microseconds a kilobyte under the interpreter lock, in the middle of a
training step. The same bytes from google-crc32c cost nothing that can be measured.
"""

import functools
import io
import struct
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["checksum_in_python", "compiled_checksum", "crc32c", "record", "use_compiled_checksum"]

_PROBE = bytes(range(256)) * 3


def compiled_checksum() -> Callable[[bytes], int] | None:
    """CRC-32C in C, or None where google-crc32c is missing or has no compiled part on this platform.

    Examples:
        >>> checksum = compiled_checksum()
        >>> checksum is None or hex(checksum(b"123456789"))
        '0xe3069283'
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # that it falls back to Python is asked about below
            import google_crc32c
    except ImportError:
        return None
    if google_crc32c.implementation != "c":
        return None
    value: Callable[[bytes], int] = google_crc32c.value
    return value


@functools.cache
def crc32c() -> Callable[[bytes], int]:
    """CRC-32C in C where there is one, in Python where there is none; found out at the first call.

    Examples:
        >>> hex(crc32c()(b"123456789"))
        '0xe3069283'
    """
    return compiled_checksum() or checksum_in_python


def checksum_in_python(data: bytes) -> int:
    """CRC-32C, a hundred times slower.

    Examples:
        >>> hex(checksum_in_python(b"123456789")), checksum_in_python(b"")
        ('0xe3069283', 0)
    """
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def record(data: bytes, checksum: Callable[[bytes], int]) -> bytes:
    """One record of an event file: length, masked checksum of it, data, masked checksum of it, all little-endian.

    The mask, a rotation and a constant, keeps a checksum of data that holds checksums from degenerating.

    Examples:
        >>> record(b"", lambda data: 0).hex()
        '0000000000000000d8ea82a2d8ea82a2'
    """
    length = struct.pack("<Q", len(data))
    return b"".join((length, _masked(checksum(length)), data, _masked(checksum(data))))


def use_compiled_checksum(summary_writer: Any) -> bool:
    """Let one writer's records be made by `record`; whether they are.

    Only this instance changes, no module is patched. A writer whose inside has changed, or whose bytes differ from
    ours on a trial record, is left as it is.

    Args:
        summary_writer: A ``torch.utils.tensorboard.SummaryWriter``.

    Examples:
        >>> use_compiled_checksum(object())
        False
    """
    checksum = compiled_checksum()
    if checksum is None:
        return False
    try:
        writer = summary_writer._get_file_writer().event_writer._async_writer._writer
        if "write" in vars(writer):
            return True
        file, trial = writer._writer, io.BytesIO()
        type(writer)(trial).write(_PROBE)
        if trial.getvalue() != record(_PROBE, checksum):
            return False
        writer.write = lambda data: file.write(record(data, checksum))
    except (AttributeError, TypeError):
        return False
    return True


def _masked(crc: int) -> bytes:
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.cache
def _table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in table]
    return table
