"""What a fit accepts: which rows of labelled logits count, and the errors that say what was expected."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import upcast

__all__ = ["CalibrationRows", "CalibrationWarning", "calibration_rows", "check_floor", "check_not_negative"]


class CalibrationWarning(UserWarning):
    """The rows do not determine what was fitted to them; what was kept instead is in the message."""


class CalibrationRows(NamedTuple):
    """The rows a fit uses, and how many it does not.

    Attributes:
        logits: ``[rows, classes]``, float32 or wider; no NaN, no ``+inf``, the target class present in each row.
        targets: int64 ``[rows]``.
        weights: ``[rows]``, positive; in the widest type of the device, in which the fits compute.
        ignored: Rows with ``ignore_index`` for a target, or of weight 0.
        left_out: Rows with NaN or ``+inf``, or whose target is an absent class (``-inf``): they fit no calibrator.
    """

    logits: Tensor
    targets: Tensor
    weights: Tensor
    ignored: int
    left_out: int


def calibration_rows(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None, ignore_index: int = -100
) -> CalibrationRows:
    """The rows that count, checked.

    Args:
        logits: ``[..., classes]``, two classes or more, any floating type.
        targets: Class indices, shaped as ``logits`` without classes.
        weights: Shaped as ``targets``, finite and ``>= 0``: a row of weight 2 counts as two rows. None for ones.
        ignore_index: The target of a row that does not count.

    Returns:
        The rows that count; on a device without float64 they are moved to the CPU.

    Raises:
        TypeError: If logits are not floating point or targets not integers.
        ValueError: If shapes do not fit, a target is no class, a weight is negative or not finite, no row is left, or
            the rows left are all of one class, from which no calibrator can be learned.

    Examples:
        >>> logits = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [float("nan"), 0.0]])
        >>> rows = calibration_rows(logits, torch.tensor([0, 1, -100, 1]))
        >>> rows.targets.tolist(), rows.ignored, rows.left_out
        ([0, 1], 1, 1)
    """
    _check_shapes(logits, targets, weights)
    z = upcast(logits.detach()).reshape(-1, logits.shape[-1])
    z = z.cpu() if z.device.type == "mps" else z
    y = targets.detach().reshape(-1).to(z.device, torch.int64)
    w = _weights(weights, y)
    counted = (y != ignore_index) & (w > 0)
    _check_range(y[counted], z.shape[1], ignore_index)
    target_logits = z.gather(1, torch.where(counted, y, 0).unsqueeze(1)).squeeze(1)
    usable = counted & z.amax(1).isfinite() & (target_logits > -torch.inf)
    rows, ignored = int(usable.sum()), int((~counted).sum())
    left_out = len(y) - rows - ignored
    if rows == 0:
        raise ValueError(
            f"expected rows to fit, got {len(y)}: {ignored} ignored (target {ignore_index} or weight 0), {left_out} "
            "left out (NaN, inf, or an absent class for a target)"
        )
    if rows < len(y):
        z, y, w = z[usable], y[usable], w[usable]
    if bool((y == y[0]).all()):
        raise ValueError(f"expected rows of two classes or more, got {rows} rows that are all of class {int(y[0])}")
    return CalibrationRows(z, y, w, ignored, left_out)


def check_not_negative(name: str, value: float) -> None:
    """Refuse what cannot be an amount.

    Raises:
        ValueError: If ``value`` is negative, infinite or NaN.

    Examples:
        >>> check_not_negative("smoothing", 0.5)
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and >= 0, got {value}")


def check_floor(floor: float | None) -> None:
    """Refuse a least probability of yes and of no that leaves no room between them.

    Raises:
        ValueError: If it is negative, 1/2 or more, or NaN.

    Examples:
        >>> check_floor(None), check_floor(0.0)
        (None, None)
    """
    if floor is not None and not 0 <= floor < 0.5:
        raise ValueError(f"floor must be in [0, 0.5) or None, got {floor}")


def _check_shapes(logits: Tensor, targets: Tensor, weights: Tensor | None) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if logits.ndim < 2 or logits.shape[-1] < 2:
        raise ValueError(f"logits must be [..., classes] with two classes or more, got shape {tuple(logits.shape)}")
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets must be class indices of shape {tuple(logits.shape[:-1])} for logits of shape "
            f"{tuple(logits.shape)}, got shape {tuple(targets.shape)}"
        )
    if targets.dtype == torch.bool or targets.is_floating_point() or targets.is_complex():
        raise TypeError(f"targets must be integers, got {targets.dtype}")
    if weights is not None and weights.shape != targets.shape:
        raise ValueError(f"weights must have the shape of targets, {tuple(targets.shape)}, got {tuple(weights.shape)}")


def _weights(weights: Tensor | None, targets: Tensor) -> Tensor:
    if weights is None:
        return torch.ones(len(targets), dtype=torch.float64, device=targets.device)
    w = weights.detach().reshape(-1).to(targets.device, torch.float64)
    if bad := int((~((w >= 0) & w.isfinite())).sum()):
        raise ValueError(f"weights must be finite and >= 0, got {bad} that are not")
    return w


def _check_range(targets: Tensor, classes: int, ignore_index: int) -> None:
    outside = targets[(targets < 0) | (targets >= classes)]
    if len(outside):
        raise ValueError(
            f"targets must be in [0, {classes}) for {classes} classes, or ignore_index ({ignore_index}), "
            f"got {int(outside[0])}"
        )
