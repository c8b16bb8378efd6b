"""Reads the record of a run: every line checked, numbers restored, every meaning filled in."""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from logitwatch.sinks.plain_json import restore_numbers
from logitwatch.sinks.readings import Alert, Curve, Figure, Heatmap, Histogram, Reading, Scalars, Table, Text
from logitwatch.sinks.seals import holds_whole_line, is_torn_line, is_whole_line

__all__ = ["KINDS", "SCHEMA", "as_reading", "read_jsonl"]

SCHEMA = 1
"""Raised when a line changes in a way an older reader would misread. The checksum of a line stays what it is."""

KINDS: dict[type[Any], str] = {
    Alert: "alert",
    Curve: "curve",
    Figure: "figure",
    Heatmap: "heatmap",
    Histogram: "histogram",
    Table: "table",
    Text: "text",
}
"""What a reading is called in the field ``kind``. Scalars have a line each, of kind ``scalar``."""


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The records of a `JsonlSink` file in order, as dictionaries: numbers restored, every meaning filled in.

    A line cut short, the last of the file or the last of a session that was killed, ends its session in peace. Any
    other change is an error: no record is ever changed or left out in silence.

    Args:
        path: The file.

    Yields:
        One dictionary a line, headers included.

    Raises:
        ValueError: If a line is not what was written, or the file has a newer schema.

    Examples:
        >>> import os, tempfile
        >>> from logitwatch.sinks.seals import sealed
        >>> path = os.path.join(tempfile.mkdtemp(), "cut.jsonl")
        >>> with open(path, "wb") as file:
        ...     _ = file.write(sealed([b'{"schema":1,"kind":"header"', b'{"kind":"scalar"'])[:-9])
        >>> list(read_jsonl(path))
        [{'schema': 1, 'kind': 'header'}]
    """
    meanings: dict[tuple[str, str], str] = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            whole = line if line.endswith(b"\n") else line + b"\n"
            if not is_whole_line(whole):
                if is_torn_line(line) or (whole is not line and not holds_whole_line(line)):
                    continue
                raise ValueError(f"{os.fspath(path)}, line {number}: damaged, its checksum is not that of its bytes")
            record = _parsed(line, f"{os.fspath(path)}, line {number}")
            yield _restored(record, meanings)


def as_reading(record: Mapping[str, Any]) -> Reading | None:
    """The reading a record of `read_jsonl` was written from; None for a header, a figure or an unknown kind.

    Examples:
        >>> as_reading({"kind": "scalar", "tag": "a", "step": 1, "value": 2.0})
        Scalars(values={'a': 2.0}, step=1)
        >>> as_reading({"kind": "header", "schema": 1}) is None
        True
    """
    kind = record.get("kind")
    if kind == "scalar":
        return Scalars(values={record["tag"]: record["value"]}, step=record["step"])
    for reading, name in KINDS.items():
        if name == kind and reading is not Figure:
            known = reading.__dataclass_fields__
            built: Reading = reading(**{key: value for key, value in record.items() if key in known})
            return built
    return None


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place}: not JSON, {error}") from None
    if not isinstance(record, dict) or "kind" not in record:
        raise ValueError(f"{place}: expected an object with a kind, got {line[:80]!r}")
    if record["kind"] == "header" and record.get("schema", 0) > SCHEMA:
        raise ValueError(f"{place}: has schema {record['schema']}; this version reads up to {SCHEMA}")
    del record["crc"]
    return record


def _restored(record: dict[str, Any], meanings: dict[tuple[str, str], str]) -> dict[str, Any]:
    restore_numbers(record)
    if record["kind"] != "header":
        key = record["kind"], record["tag"]
        record["meaning"] = meanings[key] = record.get("meaning", meanings.get(key, ""))
    return record
