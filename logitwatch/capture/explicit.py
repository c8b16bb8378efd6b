"""The first source: logits a training step hands over itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from logitwatch.capture.criteria import Call

__all__ = ["observe", "receiving"]

_receivers: list[Callable[[Call], None]] = []


@torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
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
    monitor is attached, so it may stay in code that also runs without the suite.

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
    if _receivers:
        _receivers[-1](Call(source, logits, targets, dim, ignore_index, mask=mask))


@contextmanager
def receiving(receiver: Callable[[Call], None]) -> Iterator[None]:
    """Send what `observe` is given to ``receiver`` while the context lasts."""
    _receivers.append(receiver)
    try:
        yield
    finally:
        _receivers.remove(receiver)
