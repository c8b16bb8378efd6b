"""Logits and targets of any leading shape as flat rows."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["FlatRows", "flat_rows"]


class FlatRows(NamedTuple):
    """What a state takes: rows without a graph."""

    logits: Tensor  # [rows, classes]
    targets: Tensor  # class indices [rows] or probabilities [rows, classes]
    mask: Tensor | None  # [rows], False where the target is to be ignored; None for probabilities


def flat_rows(logits: Tensor, targets: Tensor, *, ignore_index: int = -100) -> FlatRows:
    """Flatten all axes but that of the classes.

    Args:
        logits: ``[..., classes]``, two classes or more, any real type.
        targets: Class indices ``[...]``, or probabilities ``[..., classes]``.
        ignore_index: Class index of rows to leave out.

    Raises:
        ValueError: If there are fewer than two classes, or ``targets`` has neither shape.

    Examples:
        >>> import torch
        >>> rows = flat_rows(torch.zeros(2, 3, 5), torch.tensor([[1, 2, -100], [0, 0, 0]]))
        >>> rows.logits.shape, rows.mask.tolist()
        (torch.Size([6, 5]), [True, True, False, True, True, True])
    """
    if logits.ndim == 0 or logits.shape[-1] < 2:
        raise ValueError(
            f"logits must be [..., classes] with two classes or more, got {tuple(logits.shape)}; for one logit z "
            "per row pass torch.stack((torch.zeros_like(z), z), dim=-1)"
        )
    classes, soft = logits.shape[-1], targets.is_floating_point()
    if targets.shape != (logits.shape if soft else logits.shape[:-1]):
        raise ValueError(
            f"targets must be integer of shape {tuple(logits.shape[:-1])} or probabilities of shape "
            f"{tuple(logits.shape)}, got {targets.dtype} of shape {tuple(targets.shape)}"
        )
    rows, targets = logits.detach().reshape(-1, classes), targets.detach()
    if soft:
        return FlatRows(rows, targets.reshape(-1, classes), None)
    targets = targets.reshape(-1)
    return FlatRows(rows, targets, targets != ignore_index)
