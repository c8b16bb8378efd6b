"""JSON for numbers it has no word for: NaN and the infinities as strings, and back where a number is meant."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["encoded", "restore_numbers"]

# Fields whose strings are numbers JSON has no word for. Anywhere else a string is a string.
_NUMERIC = (
    *("value", "values", "counts", "edges", "minimum", "maximum", "total", "squares"),
    *("x", "y", "weights", "lower", "upper", "reference"),
)
_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encoded(value: Any) -> str:
    """``value`` as JSON in ASCII on one line, whatever its strings hold; numbers that are not finite as their names.

    Arrays become lists, anything else JSON does not know its ``str``. In a field ``rows`` the names are objects, for
    in the cells of a table text is at home.

    Examples:
        >>> encoded({"x": [1.5, float("nan")], "rows": [[float("inf")]], "text": "NaN, \\ud800"})
        '{"x":[1.5,"NaN"],"rows":[[{"float":"Infinity"}]],"text":"NaN, \\\\ud800"}'
    """
    try:
        return _strict(value)
    except ValueError:
        if isinstance(value, Mapping):
            return _strict({key: _finite(item, cell=key == "rows") for key, item in value.items()})
        return _strict(_finite(value))


def restore_numbers(record: dict[str, Any]) -> None:
    """Put the numbers back where `encoded` left their names, in the fields that hold numbers.

    Examples:
        >>> record = {"x": [1.5, "NaN"], "rows": [[{"float": "Infinity"}]], "text": "NaN"}
        >>> restore_numbers(record)
        >>> record
        {'x': [1.5, nan], 'rows': [[inf]], 'text': 'NaN'}
    """
    for key in _NUMERIC:
        if key in record:
            record[key] = _numbers(record[key])
    if "rows" in record:
        record["rows"] = [[_cell(cell) for cell in row] for row in record["rows"]]


def _fallback(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


_strict: Callable[[Any], str] = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_fallback).encode


def _finite(value: Any, *, cell: bool = False) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        name = "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
        return {"float": name} if cell else name
    if isinstance(value, Mapping):
        return {key: _finite(item, cell=cell) for key, item in value.items()}
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
