"""Readings and where they go, one backend a file. Backends load when they are first used; the rest is Python alone."""

import importlib
from typing import TYPE_CHECKING, Any

from logitwatch.sinks.jsonl import JsonlSink
from logitwatch.sinks.lightning import LightningSink
from logitwatch.sinks.memory import MemorySink
from logitwatch.sinks.opening import log_folder, open_sinks
from logitwatch.sinks.protocol import Sink
from logitwatch.sinks.readings import Alert, Curve, Figure, Heatmap, Histogram, Reading, Scalars, Table, Text
from logitwatch.sinks.records import as_reading, read_jsonl

if TYPE_CHECKING:
    from logitwatch.sinks.tensorboard import TensorBoardSink as TensorBoardSink
    from logitwatch.sinks.wandb import WandbSink as WandbSink

_HOMES = {
    "TensorBoardSink": "logitwatch.sinks.tensorboard",
    "WandbSink": "logitwatch.sinks.wandb",
}

__all__ = [
    "Alert",
    "Curve",
    "Figure",
    "Heatmap",
    "Histogram",
    "JsonlSink",
    "LightningSink",
    "MemorySink",
    "Reading",
    "Scalars",
    "Sink",
    "Table",
    "TensorBoardSink",
    "Text",
    "WandbSink",
    "as_reading",
    "log_folder",
    "open_sinks",
    "read_jsonl",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'logitwatch.sinks' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
