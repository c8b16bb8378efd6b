"""Logits that are spread over ranks: what this rank may look at without asking another."""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor

__all__ = ["is_distributed", "local_rows"]


def is_distributed(tensor: Any) -> bool:
    """Whether a tensor is a ``DTensor``; nothing is imported to find out.

    Examples:
        >>> import torch
        >>> is_distributed(torch.zeros(2))
        False
    """
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def local_rows(logits: Tensor, targets: Tensor | None, class_dim: int) -> tuple[Tensor, Tensor | None]:
    """The rows of this rank that no other counts, with their targets: plain tensors, had without communication.

    Rows that several ranks hold are counted by the first of them, and there are none on the others.

    Args:
        logits: Any tensor; a plain one is given back as it is.
        targets: Their targets, spread as the logits are, or plain where the logits are replicated.
        class_dim: The class axis.

    Raises:
        ValueError: If the classes themselves are spread, or what a rank holds is a partial sum.

    Examples:
        >>> import torch
        >>> z = torch.zeros(2, 3)
        >>> local_rows(z, None, -1)[0] is z
        True
    """
    if not is_distributed(logits):
        return logits, targets
    spread: Any = logits
    axis, first = class_dim % logits.ndim, True
    for dimension, placement in enumerate(spread.placements):
        if placement.is_partial() or placement.is_shard(axis):
            raise ValueError(
                f"logits must have whole rows on each rank, got classes on axis {axis} and {spread.placements}; "
                "gather a few rows and hand them over: logitwatch.observe(logits[:64].full_tensor(), targets[:64])"
            )
        if placement.is_replicate():
            first = first and spread.device_mesh.get_local_rank(dimension) == 0
    z: Tensor = spread.to_local()
    y: Tensor | None = targets.to_local() if is_distributed(targets) else targets  # type: ignore[union-attr]
    return (z, y) if first else (z[:0], None if y is None else y[:0])
