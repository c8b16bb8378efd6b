"""What may be logits, targets and a mask of an observation; errors say what was expected and what came."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

__all__ = ["class_axis", "mask_rows", "plain", "real_numbers", "target_rows"]

# What torch can compare and add up, without which nothing can be said of a tensor.
_COMPUTABLE = frozenset(
    {
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    }
)
# What torch can only store.
_STORABLE = frozenset({torch.uint16, torch.uint32, torch.uint64})


def plain(x: Any, name: str) -> Tensor:
    """A dense tensor, detached, of class `torch.Tensor` where what came was a subclass of it.

    Subclasses may run code of their own at every operator, so they are left behind, but for those that are not
    themselves what they hold (``DTensor``).

    Args:
        x: Anything.
        name: What it is called in an error.

    Raises:
        TypeError: If it is no tensor, or a sparse, nested or quantised one.

    Examples:
        >>> plain([0.0, 1.0], "logits")
        Traceback (most recent call last):
            ...
        TypeError: logits must be a tensor, got list
        >>> plain(torch.eye(2).to_sparse(), "logits")
        Traceback (most recent call last):
            ...
        TypeError: logits must be a dense tensor, got torch.float32 in torch.sparse_coo
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if type(x) is not Tensor and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__:
        x = x.as_subclass(Tensor)
    if x.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one; pad it and hand over a mask")
    if x.layout != torch.strided or x.is_quantized:
        raise TypeError(f"{name} must be a dense tensor, got {x.dtype} in {x.layout}")
    detached: Tensor = x.detach()
    return detached


def real_numbers(x: Tensor, name: str) -> Tensor:
    """The same numbers in a type torch computes with: eight-bit floats and wide unsigned integers are lifted, a copy.

    Args:
        x: Any tensor.
        name: What it is called in an error.

    Raises:
        TypeError: If ``x`` is of truth values, complex, or packed.

    Examples:
        >>> real_numbers(torch.ones(2, dtype=torch.float8_e5m2), "logits").dtype
        torch.bfloat16
        >>> real_numbers(torch.ones(2, dtype=torch.complex64), "logits")
        Traceback (most recent call last):
            ...
        TypeError: logits must be real numbers, got torch.complex64
    """
    if x.dtype in _COMPUTABLE:
        return x
    if str(x.dtype).startswith("torch.float8"):
        return x.bfloat16()  # holds every one of them, and is half as large as float32
    if x.dtype in _STORABLE:
        return x.float()
    raise TypeError(f"{name} must be real numbers, got {x.dtype}")


def class_axis(shape: torch.Size, class_dim: int) -> int:
    """The axis of the classes, counted from the front.

    Raises:
        ValueError: If there is no such axis, or no class on it.

    Examples:
        >>> class_axis(torch.Size((8, 10)), -1)
        1
        >>> class_axis(torch.Size((8, 10)), 2)
        Traceback (most recent call last):
            ...
        ValueError: logits must have classes on axis 2, got shape (8, 10)
    """
    axis = class_dim + len(shape) if class_dim < 0 else class_dim
    if not 0 <= axis < len(shape):
        raise ValueError(f"logits must have classes on axis {class_dim}, got shape {tuple(shape)}")
    if shape[axis] == 0:
        raise ValueError(f"logits must have at least one class, got shape {tuple(shape)} with classes on axis {axis}")
    return axis


def target_rows(targets: Any, logits: Tensor, axis: int | None) -> Tensor:
    """Targets as class indices ``[rows]``, int64, or as probabilities ``[rows, classes]``.

    Args:
        targets: Indices shaped as ``logits`` without classes, or flat; or probabilities shaped as ``logits``, of which
            a one-hot of integers is one.
        logits: What they are the targets of, for shape and device.
        axis: The class axis; None for independent yes-or-no logits, whose targets are probabilities of yes ``[rows]``.

    Raises:
        TypeError: If they are of a type that fits neither.
        ValueError: If they are of a shape that fits neither, or elsewhere.

    Examples:
        >>> target_rows(torch.tensor([[0, 1]]), torch.zeros(1, 2, 5), 2)
        tensor([0, 1])
        >>> target_rows(torch.tensor([0, 1]), torch.zeros(3, 5), 1)
        Traceback (most recent call last):
            ...
        ValueError: targets must be class indices of shape (3,) or probabilities of shape (3, 5), got shape (2,)
    """
    y = _beside(targets, logits, "targets")
    if y.dtype in _STORABLE:
        y = y.long()
    elif y.dtype != torch.bool:
        y = real_numbers(y, "targets")
    if axis is None:
        return _flat(y, logits.shape, "targets")
    leading = logits.shape[:axis] + logits.shape[axis + 1 :]
    if _in_places(y, leading) and not (y.is_floating_point() and y.shape == logits.shape):
        if y.is_floating_point():
            raise TypeError(f"targets of shape {tuple(y.shape)} must be class indices, integers, got {y.dtype}")
        return y.reshape(-1).long()  # of eight bits they could not be compared with -100 or 300
    if y.shape == logits.shape:
        return y.movedim(axis, -1).reshape(-1, logits.shape[axis])
    raise ValueError(
        f"targets must be class indices of shape {tuple(leading)} or probabilities of shape {tuple(logits.shape)}, "
        f"got shape {tuple(y.shape)}"
    )


def mask_rows(mask: Any, logits: Tensor, leading: torch.Size) -> Tensor:
    """A mask as ``[rows]`` bool.

    Raises:
        TypeError: If it is no dense tensor.
        ValueError: If its shape is not ``leading``, or it is elsewhere than ``logits``.

    Examples:
        >>> mask_rows(torch.tensor([[1, 0]]), torch.zeros(1, 2, 5), torch.Size((1, 2)))
        tensor([ True, False])
    """
    return _flat(_beside(mask, logits, "mask"), leading, "mask").bool()


def _beside(x: Any, logits: Tensor, name: str) -> Tensor:
    tensor = plain(x, name)
    if tensor.device != logits.device:
        raise ValueError(f"{name} must be on {logits.device} as the logits are, got {tensor.device}")
    return tensor


def _flat(x: Tensor, places: torch.Size, name: str) -> Tensor:
    if not _in_places(x, places):
        raise ValueError(f"{name} must be of shape {tuple(places)}, got shape {tuple(x.shape)}")
    return x.reshape(-1)


def _in_places(x: Tensor, places: torch.Size) -> bool:
    """Whether there is one for each place, in their order: axes of length 1 do not matter, nor that it is flat."""
    if x.ndim == 1 and len(x) == prod(places):
        return True
    return [n for n in x.shape if n != 1] == [n for n in places if n != 1]
