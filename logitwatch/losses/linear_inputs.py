"""What a linear cross-entropy accepts, and the errors that say what was expected."""

import torch
from torch import Tensor

from logitwatch.losses.inputs import may_look

__all__ = ["absent_classes", "check_linear", "checked_targets", "product_dtype"]


def check_linear(
    input: Tensor, linear_weight: Tensor, target: Tensor, linear_bias: Tensor | None, weight: Tensor | None
) -> None:
    """Refuse tensors whose shapes do not belong together, and a target or class weights spread over ranks.

    Raises:
        TypeError: If target or class weights are a DTensor; where the others may lie says `own_part`.
        ValueError: If the shapes do not fit.

    Examples:
        >>> check_linear(torch.zeros(5, 2), torch.zeros(3, 2), torch.zeros(5), None, None)
    """
    for name, tensor in (("target", target), ("weight", weight)):
        # By what it has: its class is imported only where there is one.
        if hasattr(tensor, "placements"):
            placements = getattr(tensor, "placements", None)
            raise TypeError(
                f"{name} must be whole on each rank, got a DTensor placed {placements}; use {name}.full_tensor()"
            )
    if linear_weight.ndim != 2 or 0 in linear_weight.shape:
        raise ValueError(f"linear_weight must be [classes, features], got shape {tuple(linear_weight.shape)}")
    classes, features = linear_weight.shape
    if input.ndim == 0 or input.shape[-1] != features:
        raise ValueError(f"input must be [..., {features}] for this linear_weight, got shape {tuple(input.shape)}")
    if target.shape != input.shape[:-1]:
        raise ValueError(
            f"target must be class indices of shape {tuple(input.shape[:-1])}, got shape {tuple(target.shape)}; "
            "probabilities of classes are not supported"
        )
    for name, given in (("linear_bias", linear_bias), ("weight", weight)):
        if given is not None and given.shape != (classes,):
            raise ValueError(
                f"{name} must have one entry for each of {classes} classes, got shape {tuple(given.shape)}"
            )


def checked_targets(target: Tensor, classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Class indices ``[rows]``, 0 where a row does not count, and which rows count.

    On a CPU the targets are looked at; on an accelerator that would wait for the device, whose own assertion fires.

    Raises:
        TypeError: If the target is not of integers.
        ValueError: If an index is no class.

    Examples:
        >>> checked_targets(torch.tensor([[2, -100]]), 3, -100)
        (tensor([2, 0]), tensor([ True, False]))
    """
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"target must be integers, got {target.dtype}")
    flat = target.reshape(-1).long()
    counted = flat != ignore_index
    index = torch.where(counted, flat, 0)
    if may_look(target) and len(index) and not (index.amin() >= 0 and index.amax() < classes):
        wrong = index[(index < 0) | (index >= classes)][0]
        raise ValueError(
            f"target must be in [0, {classes}) for {classes} classes, or ignore_index ({ignore_index}), "
            f"got {int(wrong)}"
        )
    return index, counted


def absent_classes(bias: Tensor | None) -> Tensor | None:
    """Classes with a bias of ``-inf``; None where a look shows that there is none.

    Examples:
        >>> absent_classes(torch.tensor([0.0, float("-inf")]))
        tensor([False,  True])
    """
    if bias is None:
        return None
    absent = bias.detach() == -torch.inf
    return None if may_look(bias) and not bool(absent.any()) else absent


def product_dtype(input: Tensor, weight: Tensor) -> torch.dtype:
    """The type the matrix products run in: that of both, or autocast's; float32 for float16.

    A gradient in float16 that already holds one over the number of rows would underflow before a loss scale reaches it.

    Raises:
        TypeError: If the input is not floating point, or outside autocast the weight of another type.

    Examples:
        >>> product_dtype(torch.zeros(1).half(), torch.zeros(1).half())
        torch.float32
    """
    if not input.is_floating_point():
        raise TypeError(f"input must be floating point, got {input.dtype}")
    device = input.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and input.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    elif input.dtype != weight.dtype:
        raise TypeError(f"linear_weight must have the type of input, {input.dtype}, got {weight.dtype}")
    else:
        dtype = input.dtype
    return torch.float32 if dtype == torch.float16 else dtype
