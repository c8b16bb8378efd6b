"""What a loss accepts: where the classes are, which rows count, and the errors that say what was expected."""

import torch
from torch import Tensor

from logitwatch.functional.numerics import upcast

__all__ = [
    "all_counted",
    "along_classes",
    "check_fraction",
    "check_logits",
    "check_non_negative",
    "check_positive",
    "check_reduction",
    "class_axis",
    "class_weights",
    "counted_rows",
    "lifted_weight",
    "may_look",
    "maybe_absent",
    "reduce_rows",
    "without_ignored",
]

REDUCTIONS = ("mean", "none", "sum")


def class_axis(logits: Tensor) -> int:
    """The axis torch's `CrossEntropyLoss` has the classes on: 0 for one example, otherwise 1.

    Examples:
        >>> class_axis(torch.zeros(3)), class_axis(torch.zeros(2, 3, 5, 5))
        (0, 1)
    """
    return 0 if logits.ndim == 1 else 1


def along_classes(values: Tensor, like: Tensor, dim: int) -> Tensor:
    """One number a class, viewed so that it broadcasts along the class axis of ``like``.

    Examples:
        >>> along_classes(torch.zeros(3), torch.zeros(2, 3, 5, 5), 1).shape
        torch.Size([3, 1, 1])
    """
    return values.view(-1, *[1] * (like.ndim - 1 - dim % like.ndim))


def check_logits(logits: Tensor) -> None:
    """Refuse what cannot be logits.

    Raises:
        TypeError: If ``logits`` is not of a real floating type.
        ValueError: If it is a scalar or has no class.

    Examples:
        >>> check_logits(torch.zeros(0, 3))
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if logits.ndim == 0 or logits.shape[class_axis(logits)] == 0:
        raise ValueError(
            f"logits must be [C], [N, C] or [N, C, d1, ...] with at least one class, got {tuple(logits.shape)}"
        )


def counted_rows(logits: Tensor, targets: Tensor, ignore_index: int, *, name: str = "targets") -> Tensor | None:
    """Which rows count, or None where targets are probabilities: those name no row to ignore.

    On a CPU the targets are looked at; on an accelerator that would wait for the device, whose own assertion fires.

    Args:
        logits: ``[C]``, ``[N, C]`` or ``[N, C, d1, ...]``.
        targets: Class indices, shaped as ``logits`` without classes; or probabilities, shaped as ``logits``.
        ignore_index: The target of a row that does not count.
        name: What the targets are called where they are refused.

    Returns:
        bool, shaped as ``targets``.

    Raises:
        TypeError: If targets are of a type that fits neither indices nor probabilities.
        ValueError: If their shape fits neither, or an index is not a class.

    Examples:
        >>> counted_rows(torch.zeros(2, 3), torch.tensor([2, -100]), -100)
        tensor([ True, False])
        >>> counted_rows(torch.zeros(2, 3), torch.full((2, 3), 1 / 3), -100) is None
        True
    """
    axis = class_axis(logits)
    leading = logits.shape[:axis] + logits.shape[axis + 1 :]
    if targets.shape == logits.shape and targets.is_floating_point():
        return None
    if targets.shape not in (leading, logits.shape):
        raise ValueError(
            f"{name} must be class indices of shape {tuple(leading)} or probabilities of shape "
            f"{tuple(logits.shape)}, got shape {tuple(targets.shape)}"
        )
    if targets.shape != leading or targets.dtype == torch.bool or targets.is_floating_point() or targets.is_complex():
        expected = "integers" if targets.shape == leading else "floating-point probabilities"
        raise TypeError(f"{name} of shape {tuple(targets.shape)} must be {expected}, got {targets.dtype}")
    counted = targets.long() != ignore_index
    if may_look(targets):
        _check_range(name, targets, counted, logits.shape[axis], ignore_index)
    return counted


def may_look(x: Tensor) -> bool:
    """Whether a Python branch on values of ``x`` is free: on a CPU, outside `torch.compile` and `torch.func`.

    Examples:
        >>> may_look(torch.zeros(1))
        True
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not _is_transformed()


def _is_transformed() -> bool:
    """Whether a transform of `torch.func` runs, under which a value may stand for many."""
    return torch._C._functorch.peek_interpreter_stack() is not None  # type: ignore[attr-defined, unused-ignore]


def maybe_absent(logits: Tensor) -> bool:
    """Whether a class may be absent (``-inf``); always True where looking is not free.

    Examples:
        >>> maybe_absent(torch.tensor([0.0, float("-inf")])), maybe_absent(torch.zeros(0, 3))
        (True, False)
    """
    return not may_look(logits) or (logits.numel() > 0 and bool(logits.amin() == -torch.inf))


def without_ignored(logits: Tensor, counted: Tensor) -> Tensor:
    """The logits with zeros in the rows that do not count, so that nothing in those can reach a value or a gradient.

    Examples:
        >>> without_ignored(torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]), torch.tensor([True, False]))
        tensor([[1., 2.],
                [0., 0.]])
    """
    if all_counted(counted):
        return logits
    return logits.masked_fill(~counted.unsqueeze(class_axis(logits)), 0.0)


def all_counted(counted: Tensor) -> bool:
    """Whether a look, where it is free, shows that there are rows and every one counts."""
    return may_look(counted) and counted.numel() > 0 and bool(counted.all())


def reduce_rows(values: Tensor, counted: Tensor | None, reduction: str, weights: Tensor | None = None) -> Tensor:
    """Values of rows, reduced; 0 with zero gradient where no row counts.

    Args:
        values: One number a row.
        counted: Which rows count, shaped as ``values``; None for all.
        reduction: ``mean`` over the rows that count, ``sum``, or ``none``, which is 0 where a row does not count.
        weights: Weight of each row, already in ``values``: what the mean divides by in place of their number.

    Examples:
        >>> reduce_rows(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False]), "mean")
        tensor(2.)
    """
    values = values if counted is None else torch.where(counted, values, 0.0)
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    if counted is None:
        return values.sum() / max(1, values.numel())
    total = counted.sum() if weights is None else torch.where(counted, weights, 0.0).sum()
    return values.sum() / torch.where(total == 0, 1, total)


def check_reduction(reduction: str) -> None:
    """Refuse an unknown reduction.

    Raises:
        ValueError: If ``reduction`` is none of ``mean``, ``none``, ``sum``.

    Examples:
        >>> check_reduction("mean")
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")


def check_fraction(name: str, value: float) -> None:
    """Refuse a number outside ``[0, 1]``.

    Raises:
        ValueError: If ``value`` is outside, or NaN.

    Examples:
        >>> check_fraction("label_smoothing", 0.1)
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


def check_non_negative(name: str, value: float) -> None:
    """Refuse a number below 0.

    Raises:
        ValueError: If ``value`` is negative, infinite or NaN.

    Examples:
        >>> check_non_negative("weight", 0.0)
    """
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be >= 0, got {value}")


def check_positive(name: str, value: float) -> None:
    """Refuse a number that is not above 0.

    Raises:
        ValueError: If ``value`` is zero, negative, infinite or NaN.

    Examples:
        >>> check_positive("temperature", 1.0)
    """
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be > 0, got {value}")


def class_weights(weight: list[float] | Tensor | None) -> Tensor | None:
    """Class weights as a tensor.

    Raises:
        ValueError: If they are not one number ``>= 0`` a class.

    Examples:
        >>> class_weights([1.0, 2.0])
        tensor([1., 2.])
    """
    if weight is None:
        return None
    result = weight if isinstance(weight, Tensor) else torch.tensor(weight, dtype=torch.float32)
    if result.ndim != 1:
        raise ValueError(f"weight must have one entry for each class, got shape {tuple(result.shape)}")
    if result.device.type == "cpu" and not bool(((result >= 0) & (result < torch.inf)).all()):
        raise ValueError(f"weight must be >= 0 for each class, got {result.tolist()}")
    return result


def lifted_weight(weight: Tensor | None, logits: Tensor) -> Tensor | None:
    """Class weights in the type the loss is computed in, checked against the number of classes."""
    if weight is None:
        return None
    classes = logits.shape[class_axis(logits)]
    if weight.shape != (classes,):
        raise ValueError(f"weight must have one entry for each of {classes} classes, got shape {tuple(weight.shape)}")
    return weight.to(upcast(logits[:0]).dtype)


def _check_range(name: str, targets: Tensor, counted: Tensor, classes: int, ignore_index: int) -> None:
    """Name the first index that is no class."""
    if not targets.numel() or (targets.amin() >= 0 and targets.amax() < classes):
        return
    outside = counted & ((targets < 0) | (targets >= classes))
    if outside.any():
        raise ValueError(
            f"{name} must be in [0, {classes}) for {classes} classes, or ignore_index ({ignore_index}), "
            f"got {int(targets[outside][0])}"
        )
