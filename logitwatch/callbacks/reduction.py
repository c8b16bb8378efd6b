"""States of all ranks made one: a packed SUM and a packed MAX, whatever the number of statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from logitwatch.callbacks.faults import Faults
from logitwatch.states.protocol import Packed, State, pack, unpack

__all__ = ["agreed", "alike", "rank", "reduced", "world_size"]


def world_size() -> int:
    """Number of ranks; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this rank; 0 where nothing is distributed."""
    return dist.get_rank() if world_size() > 1 else 0


def reduced(
    states: Sequence[State | None], empty: Sequence[State], device: torch.device, faults: Faults | None = None
) -> list[State]:
    """The states merged over all ranks, on the CPU; every rank must call with ``empty`` states of the same sizes.

    A rank takes part whatever is wrong with its own states: one that is missing, cannot be packed, or has another size
    goes in as an empty one and is counted as a fault, so that the other ranks never wait. One copy to the host for each
    of the two tensors, whatever the number of states.

    Args:
        states: What this rank saw; None for nothing.
        empty: States of having seen nothing, which say how large each is.
        device: Where collectives run.
        faults: Where what could not be packed is counted.

    Examples:
        >>> from logitwatch.states.extrema import Extrema
        >>> reduced([Extrema.of(torch.tensor([1.0, 3.0]))], [Extrema.empty()], torch.device("cpu"))[0].maximum.item()
        3.0
    """
    if not states:
        return []
    ranks = world_size()
    if ranks == 1 and device.type == "cpu":
        return [nothing if state is None else state for state, nothing in zip(states, empty, strict=True)]
    packed = [_packed(state, nothing, faults or Faults()) for state, nothing in zip(states, empty, strict=True)]
    sums = torch.cat([p.sums.to(device) for p in packed])
    maxima = torch.cat([p.maxima.to(device) for p in packed])
    if ranks > 1:
        dist.all_reduce(sums, dist.ReduceOp.SUM)
        dist.all_reduce(maxima, dist.ReduceOp.MAX)
    sums, maxima = sums.cpu(), maxima.cpu()
    whole = []
    for nothing, p in zip(empty, packed, strict=True):
        n, m = p.sums.numel(), p.maxima.numel()
        whole.append(unpack(nothing, Packed(sums[:n], maxima[:m])))
        sums, maxima = sums[n:], maxima[m:]
    return whole


def agreed(choice: tuple[int, int], device: torch.device) -> tuple[int, int]:
    """A choice all ranks make alike: the largest cadence and the fewest rows any of them chose.

    Examples:
        >>> agreed((50, 64), torch.device("cpu"))
        (50, 64)
    """
    if world_size() == 1:
        return choice
    every, rows = choice
    numbers = torch.tensor([every, -rows], dtype=torch.int64, device=device)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    every, rows = numbers.tolist()
    return every, -rows


def alike(sizes: Sequence[int], device: torch.device) -> list[bool]:
    """Which of some sizes are equal on all ranks; a negative one, for what a rank cannot make, is equal to none.

    Examples:
        >>> alike([300, -1], torch.device("cpu"))
        [True, False]
    """
    if world_size() == 1:
        return [size >= 0 for size in sizes]
    # The largest and the smallest at once; what is missing is smaller and larger than all.
    negative = [-size if size >= 0 else 2**62 for size in sizes]
    numbers = torch.tensor([*sizes, *negative], dtype=torch.int64, device=device)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    found = numbers.tolist()
    return [high == -low for high, low in zip(found[: len(sizes)], found[len(sizes) :], strict=True)]


def _packed(state: State | None, empty: State, faults: Faults) -> Packed:
    nothing = pack(empty)
    return nothing if state is None else faults.attempt("merging", _fitting, state, nothing, otherwise=nothing)


def _fitting(state: State, empty: Packed) -> Packed:
    packed = pack(state)
    if (packed.sums.shape, packed.maxima.shape) != (empty.sums.shape, empty.maxima.shape):
        raise ValueError(f"a {type(state).__name__} has another size than an empty one: it cannot be merged")
    return packed
