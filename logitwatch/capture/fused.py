"""Layers torch runs in one kernel unless somebody listens to its functions: they are not to know that we do."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn, overrides
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode

__all__ = ["Listening", "unheard"]

_asked = overrides.has_torch_function
_lock = threading.Lock()
_hidden = 0


class Listening(TorchFunctionMode):
    """A function mode that changes no call: see `unheard`."""


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """While this lasts, `Listening` modes do not count where torch asks whether a tensor is listened to.

    In evaluation `nn.TransformerEncoder`, its layers and `nn.MultiheadAttention` take a path of other roundings where
    any function mode is on the stack. They ask by the name ``torch.overrides.has_torch_function`` and nothing else in
    torch does, so this name answers for them. Every thread gets the answer that is right for its own stack.
    """
    global _hidden
    with _lock:
        _hidden += 1
        if _hidden == 1:
            overrides.has_torch_function = _overridden  # type: ignore[assignment, unused-ignore]
    try:
        yield
    finally:
        with _lock:
            _hidden -= 1
            if _hidden == 0 and overrides.has_torch_function is _overridden:
                overrides.has_torch_function = _asked


def _overridden(values: Iterable[Any]) -> bool:
    """``torch.overrides.has_torch_function`` as it were without the modes of ours."""
    if torch.compiler.is_compiling():  # a compiler cannot take modes off the stack
        return any(isinstance(value, Tensor) and type(value) not in (Tensor, nn.Parameter) for value in values)
    stack = _get_current_function_mode_stack()  # type: ignore[no-untyped-call, unused-ignore]
    if not stack or not all(isinstance(mode, Listening) for mode in stack):
        return bool(_asked(values))
    for _ in stack:
        _pop_mode()  # type: ignore[no-untyped-call, unused-ignore]
    try:
        return bool(_asked(values))
    finally:
        for mode in stack:
            _push_mode(mode)  # type: ignore[no-untyped-call, unused-ignore]
