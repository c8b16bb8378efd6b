"""The Lightning namespaces that are installed, and those a callback belongs to."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

__all__ = ["namespaces", "namespaces_of"]


@cache
def namespaces() -> list[Any]:
    """The packages, each with a ``Trainer`` of its own."""
    names = ("lightning.pytorch", "pytorch_lightning")
    return [importlib.import_module(name) for name in names if importlib.util.find_spec(name.partition(".")[0])]


def namespaces_of(callback: Any) -> list[Any]:
    """Those whose ``Trainer`` takes a callback."""
    found = [lightning for lightning in namespaces() if isinstance(callback, lightning.Callback)]
    assert found, f"{type(callback).__name__} is no Callback of {' or '.join(each.__name__ for each in namespaces())}"
    return found
