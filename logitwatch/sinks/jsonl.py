"""The complete record of a run as JSON lines: versioned, appended, readable while it is written and after a crash."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from logitwatch import __version__
from logitwatch.sinks.glossary import describe
from logitwatch.sinks.readings import Alert, Curve, Figure, Heatmap, Histogram, Reading, Scalars, Table, Text

__all__ = ["SCHEMA", "JsonlSink", "as_reading", "read_jsonl"]

SCHEMA = 1
"""Raised when a line changes in a way an older reader would misread."""

_KINDS: dict[type[Any], str] = {
    Alert: "alert",
    Curve: "curve",
    Figure: "figure",
    Heatmap: "heatmap",
    Histogram: "histogram",
    Table: "table",
    Text: "text",
}

# Fields whose strings are numbers JSON has no word for. Anywhere else a string is a string.
_NUMERIC = (
    *("value", "values", "counts", "edges", "minimum", "maximum", "total", "squares"),
    *("x", "y", "weights", "lower", "upper", "reference"),
)
_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class JsonlSink:
    """Appends one line a reading, one a tag for scalars, in one write a report.

    Every line has ``kind``, ``tag``, ``step``, ``time`` (seconds since 1970) and the fields of its reading; the unit
    is on every line, the meaning on the first line of a tag in a session (`read_jsonl` gives it back on all). A
    session begins with ``{"schema": 1, "kind": "header", "version": ...}``. NaN and the infinities are the strings
    ``"NaN"``, ``"Infinity"``, ``"-Infinity"``. Of a figure only the tag is kept, for it
    is drawn from the numbers beside it.

    Args:
        path: The file. It and its folder are made at the first write; an existing file is continued.

    Examples:
        >>> import os, tempfile
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
        self._file: BinaryIO | None = None
        self._scalar_heads: dict[str, str] = {}
        self._explained: set[str] = set()

    def write(self, readings: Sequence[Reading]) -> None:
        """See `Sink.write`. The lines have reached the operating system when it returns."""
        now = f"{time.time():.3f}"
        file = self._file or self._open(now)
        lines: list[str] = []
        for reading in readings:
            if isinstance(reading, Scalars):
                lines += self._scalar_lines(reading, now)
            else:
                lines.append(self._line(reading, now))
        if lines:
            lines.append("")
            file.write("\n".join(lines).encode())
            file.flush()

    def close(self) -> None:
        """See `Sink.close`. A later `write` opens a new session in the same file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, now: str) -> BinaryIO:
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        self._file = file = open(self.path, "ab")  # noqa: SIM115 - kept open between reports, closed in close()
        # A run that was killed may have left half a line; its remains stay apart from what follows.
        torn = file.tell() > 0 and not _ends_with_newline(self.path)
        header = f'{{"schema":{SCHEMA},"kind":"header","version":{json.dumps(__version__)},"time":{now}}}\n'
        file.write(("\n" * torn + header).encode())
        file.flush()
        self._scalar_heads.clear()
        self._explained.clear()
        return file

    def _scalar_lines(self, reading: Scalars, now: str) -> Iterator[str]:
        tail = f',"step":{int(reading.step)},"time":{now}}}'
        heads = self._scalar_heads
        for tag, number in reading.values.items():
            head = heads.get(tag)
            value = float(number)
            text = repr(value) if value - value == 0.0 else _encoded(value)
            if head is None:
                about = describe(tag)
                heads[tag] = head = f'{{"kind":"scalar","tag":{_encoded(tag)},"unit":{_encoded(about.unit)},"value":'
                yield f'{head}{text},"meaning":{_encoded(about.meaning)}{tail}'
            else:
                yield head + text + tail

    def _line(self, reading: Reading, now: str) -> str:
        fields = dict(vars(reading))
        tag = f"alerts/{fields['rule']}" if isinstance(reading, Alert) else fields.pop("tag")
        about = describe(tag)
        fields["unit"] = fields.get("unit") or about.unit
        meaning = fields.pop("meaning", "") or about.meaning
        if tag not in self._explained:
            self._explained.add(tag)
            fields["meaning"] = meaning
        fields.pop("factory", None)
        body = _encoded({"kind": _KINDS[type(reading)], "tag": tag, **fields})
        return f'{body[:-1]},"time":{now}}}'


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The records of a `JsonlSink` file in order, as dictionaries: numbers restored, every meaning filled in.

    A line cut short, the last of the file or the last of a session that was killed, ends its session in peace.

    Args:
        path: The file.

    Yields:
        One dictionary a line, headers included.

    Raises:
        ValueError: If a line in the middle of a session is not JSON, or the file has a newer schema.

    Examples:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "cut.jsonl")
        >>> with open(path, "w") as file:
        ...     _ = file.write('{"schema":1,"kind":"header"}' + chr(10) + '{"kind":"sca')
        >>> list(read_jsonl(path))
        [{'schema': 1, 'kind': 'header'}]
    """
    meanings: dict[str, str] = {}
    broken = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            record = _parsed(line)
            if record is not None and record.get("kind") == "header":
                _check_schema(record, path)
                broken = 0
            elif broken:
                raise ValueError(
                    f"{os.fspath(path)}, line {broken}: not a JSON object, and the session goes on after it"
                )
            if record is None:
                broken = number
                continue
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
    for reading, name in _KINDS.items():
        if name == kind and reading is not Figure:
            known = reading.__dataclass_fields__
            built: Reading = reading(**{key: value for key, value in record.items() if key in known})
            return built
    return None


def _encoded(value: Any) -> str:
    try:
        return _strict(value)
    except ValueError:
        return _strict(_finite(value))


def _fallback(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


_strict: Callable[[Any], str] = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_fallback).encode


def _finite(value: Any, *, cell: bool = False) -> Any:
    """``value`` with every non-finite float named; in the cells of a table as an object, for text is at home there."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        name = "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
        return {"float": name} if cell else name
    if isinstance(value, Mapping):
        return {key: _finite(item, cell=cell or key == "rows") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item, cell=cell) for item in value]
    return value


def _numbers(value: Any) -> Any:
    if isinstance(value, str):
        return _NAMES.get(value, value)
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return value


def _cell(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"float"}:
        return _NAMES.get(value["float"], value)
    return value


def _restored(record: dict[str, Any], meanings: dict[str, str]) -> dict[str, Any]:
    for key in _NUMERIC:
        if key in record:
            record[key] = _numbers(record[key])
    if record["kind"] == "table":
        record["rows"] = [[_cell(cell) for cell in row] for row in record["rows"]]
    if record["kind"] != "header":
        record["meaning"] = meanings.setdefault(record["tag"], record.get("meaning", ""))
    return record


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None


def _check_schema(record: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    if record.get("schema", 0) > SCHEMA:
        raise ValueError(f"{os.fspath(path)} has schema {record['schema']}; this version reads up to {SCHEMA}")


def _ends_with_newline(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
