"""The first source: logits a training step hands over itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function

from logitwatch.capture.criteria import Call

__all__ = ["explicit_call", "observe", "receiving"]

# Each is given how to make the call, so that a failure is its own and not the step's.
_receivers: list[Callable[[Callable[[], Call]], None]] = []


def observe(
    logits: Tensor,
    targets: Tensor | None = None,
    *,
    dim: int = -1,
    ignore_index: int = -100,
    mask: Tensor | None = None,
    source: str = "observe",
) -> None:
    """Hand logits and targets to the monitors, from inside a training, validation or test step.

    It comes before every other source, costs a function call on steps nobody looks at, and does nothing where no
    monitor is attached, so it may stay in code that also runs without the suite. Compiled code may call it too: there
    it is nothing but two more outputs on the steps looked at, without a graph break.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``; detached here.
        targets: Class indices shaped as ``logits`` without ``dim``, probabilities shaped as ``logits``, or None.
        dim: The class axis.
        ignore_index: Target of positions that do not count.
        mask: True where a position counts, shaped as ``logits`` without ``dim``.
        source: A name, where a step has several kinds of logits and a monitor is to follow one.

    Examples:
        >>> observe(torch.zeros(4, 10), torch.zeros(4, dtype=torch.long))  # no monitor: nothing happens
    """
    options: dict[str, Any] = {"dim": dim, "ignore_index": ignore_index, "mask": mask, "source": source}
    if torch.compiler.is_compiling():
        if torch._C._is_torch_function_mode_enabled():
            handle_torch_function(observe, (), logits, targets, **options)
    elif _receivers:
        _receivers[-1](partial(explicit_call, logits, targets, **options))


def explicit_call(
    logits: Tensor, targets: Tensor | None, *, dim: int, ignore_index: int, mask: Tensor | None, source: str
) -> Call:
    """What `observe` was given, as a call.

    Examples:
        >>> explicit_call(torch.zeros(4, 10), None, dim=-1, ignore_index=-100, mask=None, source="head").source
        'head'
    """
    return Call(source, logits, targets, dim, ignore_index, mask=mask)


@contextmanager
def receiving(receiver: Callable[[Callable[[], Call]], None]) -> Iterator[None]:
    """Send what `observe` is given to ``receiver`` while the context lasts."""
    _receivers.append(receiver)
    try:
        yield
    finally:
        _receivers.remove(receiver)
