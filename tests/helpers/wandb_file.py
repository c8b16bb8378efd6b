"""The records of an offline ``.wandb`` file: LevelDB's log framing around protocol buffers."""

import json
import struct
import zlib
from pathlib import Path

_BLOCK = 32768
_HEADER = 7


def read_wandb(folder):
    """All records of the one run below ``folder``, in order, as ``wandb_internal_pb2.Record``."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = Path(folder).rglob("run-*.wandb")
    records = []
    for payload in _payloads(path.read_bytes()):
        record = Record()
        record.ParseFromString(payload)
        records.append(record)
    return records


def rows(records):
    """History rows as dictionaries; nested keys are joined with a slash."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def of_type(records, name):
    return [getattr(record, name) for record in records if record.WhichOneof("record_type") == name]


def _payloads(data):
    assert data[:4] == b":W&B", data[:7]
    place, parts = _HEADER, []
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:
            place += left
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, place)
        if kind == 0:
            break
        body = data[place + _HEADER : place + _HEADER + length]
        assert checksum == zlib.crc32(bytes([kind]) + body), "the frame is damaged"
        parts.append(body)
        place += _HEADER + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []
