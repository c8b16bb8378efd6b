"""A head whose classes are split over ranks as a DTensor: this rank's part of it, as plain tensors."""

from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

from logitwatch.functional.sharded_rows import ClassShard

__all__ = ["HeadShard", "own_part"]


class HeadShard(NamedTuple):
    """Which classes of a head this rank has.

    Attributes:
        group: The process group of the ranks that have all classes between them.
        ranks: How many these are.
        counted: Whether this rank speaks for the rows, which all of the group have.
        classes: The classes.
    """

    group: Any
    ranks: int
    counted: bool
    classes: ClassShard

    def of(self, values: Tensor) -> Tensor:
        """The entries ``[classes]`` of the classes of this rank."""
        return values[self.classes.offset : self.classes.offset + self.classes.size]

    @property
    def most(self) -> int:
        """Classes of the largest shard: what all ranks know alike."""
        return -(-self.classes.num_classes // self.ranks)


def own_part(
    input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, HeadShard | None]:
    """What this rank has of hidden states and head, and of which classes; None for a head that is whole.

    Gradients go back to where the tensors came from. Nothing is communicated.

    Args:
        input: Hidden states, the same on all ranks that share the classes: a plain tensor, or a replicated DTensor.
        linear_weight: ``[classes, features]``, plain, or a DTensor with ``Shard(0)`` over one dimension of its mesh.
        linear_bias: ``[classes]`` or None, placed as the weight is.

    Raises:
        TypeError: If one of them is placed otherwise.

    Examples:
        >>> import torch
        >>> hidden, head = torch.zeros(1, 2), torch.zeros(3, 2)
        >>> own_part(hidden, head, None)[1] is head
        True
    """
    spread: Any = linear_weight
    if not _is_spread(spread):
        for name, tensor in (("input", input), ("linear_bias", linear_bias)):
            _require(not _is_spread(tensor), name, tensor, "a plain tensor where linear_weight is one")
        return input, linear_weight, linear_bias, None
    mesh, kind = spread.device_mesh, "split over classes, Shard(0), along one dimension of its mesh"
    divided = [(dim, placement) for dim, placement in enumerate(spread.placements) if mesh.size(dim) > 1]
    _require(len(divided) <= 1 and all(_by_class(p) for _, p in divided), "linear_weight", spread, kind)
    bias: Any = linear_bias
    if bias is not None:
        alike = _is_spread(bias) and (bias.device_mesh, bias.placements) == (mesh, spread.placements)
        _require(alike, "linear_bias", bias, f"a DTensor placed {spread.placements} like linear_weight")
    hidden: Any = input
    if _is_spread(hidden):
        whole = all(hidden.device_mesh.size(dim) == 1 or p.is_replicate() for dim, p in enumerate(hidden.placements))
        _require(whole, "input", hidden, "whole on each rank of a split linear_weight")
        hidden = hidden.to_local(grad_placements=hidden.placements)
    shard = None
    if divided:
        dim, _ = divided[0]
        group, place = mesh.get_group(dim), mesh.get_local_rank(dim)
        ranks = dist.get_process_group_ranks(group)
        shard = HeadShard(group, len(ranks), place == 0, ClassShard.of(ranks, place, len(spread)))
    return hidden, spread.to_local(), None if bias is None else bias.to_local(), shard


def _is_spread(tensor: Any) -> bool:
    """By what it has: its class is imported only where there is one."""
    return hasattr(tensor, "placements")


def _by_class(placement: Any) -> bool:
    # Not `is_shard`, which a strided shard answers too: its classes are in several pieces.
    return type(placement).__name__ == "Shard" and placement.dim == 0


def _require(condition: bool, name: str, tensor: Any, expected: str) -> None:
    if not condition:
        got = f"a DTensor placed {tensor.placements}" if _is_spread(tensor) else "a plain tensor"
        raise TypeError(f"{name} must be {expected}, got {got}; {name}.full_tensor() makes a DTensor whole")
