"""Logits spread over ranks as a DTensor: what of them is here, read without a single operation that communicates."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from logitwatch.functional.sharded_rows import ClassShard

__all__ = ["Placed", "is_distributed", "local_rows", "locate"]


class Placed(NamedTuple):
    """This rank's part of a call whose logits are a DTensor, as plain tensors.

    Attributes:
        logits: The local part, detached.
        targets: Targets of the local rows, or None.
        mask: Mask of the local rows, or None.
        counted: Whether this rank speaks for its rows: of ranks that hold the same rows one does, or one group.
        shard: Which classes these are; None where the local rows are whole.
    """

    logits: Tensor
    targets: Tensor | None
    mask: Tensor | None
    counted: bool
    shard: ClassShard | None


def is_distributed(tensor: Any) -> bool:
    """Whether a tensor is a ``DTensor``; nothing is imported to find out: who made one has imported its class.

    Examples:
        >>> is_distributed(torch.zeros(2))
        False
    """
    if type(tensor) is Tensor:
        return False
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def locate(
    logits: Tensor,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    class_dim: int = -1,
    binary: bool = False,
) -> Placed | None:
    """Where a rank's part of the logits lies in the whole; None for a plain tensor, which is all there is.

    Operations on a DTensor may communicate without a sign, which a look must not: only its local tensor, its placements
    and its mesh are read. Rows may be split over any number of mesh dimensions, classes over one; over the others the
    rows are the same, and the rank at 0 counts them.

    Args:
        logits: A tensor, possibly a DTensor.
        targets: As for `Observation.of`: a plain tensor belongs to the local rows, a DTensor is placed as they are.
        mask: As the targets.
        class_dim: The class axis.
        binary: Independent yes-or-no logits: no axis is one of classes.

    Raises:
        ValueError: If the logits are a pending sum, their classes are split twice or not in one piece, or targets or
            mask lie elsewhere than the rows do.

    Examples:
        >>> locate(torch.zeros(2, 3)) is None
        True
    """
    if not is_distributed(logits):
        return None
    spread: Any = logits
    mesh, axis = spread.device_mesh, None if binary else class_dim % max(1, logits.ndim)
    coordinate = mesh.get_coordinate()
    with torch.no_grad():
        local = spread.to_local().detach()
    counted, split = coordinate is not None, None
    for dim, placement in _divided(spread):
        if placement.is_partial():
            raise ValueError(f"logits must not be a pending sum over ranks, got placements {spread.placements}")
        if axis is not None and getattr(placement, "dim", None) == axis:
            if split is not None or not placement.is_shard():
                raise ValueError(f"classes must be split once and in one piece, got placements {spread.placements}")
            split = dim
        elif placement.is_replicate() and coordinate is not None and coordinate[dim] != 0:
            counted = False
    shard = None
    if split is not None and axis is not None and coordinate is not None:
        ranks = dist.get_process_group_ranks(mesh.get_group(split))
        shard = ClassShard.of(ranks, coordinate[split], logits.shape[axis])
        if local.shape[axis] != shard.size:
            raise ValueError(f"expected {shard.size} classes on rank {coordinate[split]}, got {local.shape[axis]}")
        if targets is not None and targets.is_floating_point():
            raise ValueError("targets of logits whose classes are split must be indices, got probabilities")
    return Placed(local, _beside(targets, spread, axis), _beside(mask, spread, axis), counted, shard)


def local_rows(
    logits: Tensor,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    class_dim: int = -1,
    binary: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The whole rows of this rank that no other counts, as plain tensors; plain ones are given back as they are.

    Args:
        logits, targets, mask, class_dim, binary: See `locate`.

    Raises:
        ValueError: See `locate`; or if the classes are split, so that no rank has a whole row.

    Examples:
        >>> z = torch.zeros(2, 3)
        >>> local_rows(z)[0] is z
        True
    """
    placed = locate(logits, targets, mask, class_dim=class_dim, binary=binary)
    if placed is None:
        return logits, targets, mask
    if placed.shard is not None:
        raise ValueError(
            f"logits must have whole rows on each rank, got classes on axis {class_dim % logits.ndim} and "
            f"{getattr(logits, 'placements', None)}; gather a few rows and hand them over: "
            "logitwatch.observe(logits[:64].full_tensor(), targets[:64])"
        )
    keep = None if placed.counted else 0
    z, y, m = (None if t is None else t[:keep] for t in placed[:3])
    assert z is not None
    return z, y, m


def _divided(spread: Any) -> list[tuple[int, Any]]:
    """Mesh dimensions with more than one rank, and the placement over each."""
    mesh = spread.device_mesh
    return [(dim, placement) for dim, placement in enumerate(spread.placements) if mesh.size(dim) > 1]


def _beside(tensor: Tensor | None, spread: Any, axis: int | None) -> Tensor | None:
    """The part of targets or of a mask that belongs to the local rows."""
    if tensor is None or not is_distributed(tensor):
        return tensor
    other: Any = tensor
    full = other.ndim == spread.ndim  # an element for each logit, not for each row
    same = other.device_mesh == spread.device_mesh and len(other.placements) == len(spread.placements)
    if not same or not all(
        _goes_with(theirs, ours, axis, full)
        for (_, theirs), (_, ours) in zip(_divided(other), _divided(spread), strict=True)
    ):
        raise ValueError(
            f"targets and mask must be placed as the rows of the logits are, {spread.placements}, "
            f"got {other.placements}"
        )
    with torch.no_grad():
        local: Tensor = other.to_local().detach()
    return local


def _goes_with(theirs: Any, ours: Any, axis: int | None, full: bool) -> bool:
    """Whether targets placed like this belong to logits placed like that."""
    dim = getattr(ours, "dim", None)
    if dim is None or (dim == axis and not full):
        return bool(theirs.is_replicate())
    moved = dim - (axis is not None and not full and dim > axis)
    return type(theirs) is type(ours) and theirs.dim == moved
