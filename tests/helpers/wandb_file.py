"""The records of an offline ``.wandb`` file: LevelDB's log framing around protocol buffers."""

import contextlib
import json
import struct
import zlib
from pathlib import Path
from unittest import mock

_BLOCK = 32768
_HEADER = 7


@contextlib.contextmanager
def offline_wandb(folder):
    """W&B without a network, everything it keeps below ``folder``; runs still open are finished at the end.

    W&B reads the environment once in a process and Lightning writes to it, so both are put back. A
    ``.wandb`` file is whole on disk when the context has ended, not before.
    """
    import wandb

    places = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")
    settings = dict.fromkeys(places, str(folder)) | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    wandb.teardown()
    with mock.patch.dict("os.environ", settings):
        try:
            yield
        finally:
            wandb.finish()
            wandb.teardown()


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


def summary(records):
    """The summary a run ends with, keys joined with a slash and what lies below them as W&B nests it."""
    found = {}
    for update in of_type(records, "summary"):
        for item in update.update:
            *parents, leaf = item.nested_key or [item.key]
            place = found
            for parent in parents:
                place = place.setdefault(parent, {})
            place[leaf] = json.loads(item.value_json)
    return found


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
