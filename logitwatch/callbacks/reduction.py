"""States of all ranks made one: a packed SUM and a packed MAX, whatever the number of statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from logitwatch.states.protocol import Packed, State, pack, unpack

__all__ = ["agreed", "reduced", "world_size"]


def world_size() -> int:
    """Number of ranks; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def reduced(states: Sequence[State], device: torch.device) -> list[State]:
    """The states merged over all ranks, on the CPU; every rank must call with states of the same types and sizes.

    One copy to the host for each of the two tensors, whatever the number of states.

    Args:
        states: What this rank saw.
        device: Where collectives run.

    Examples:
        >>> from logitwatch.states.extrema import Extrema
        >>> reduced([Extrema.of(torch.tensor([1.0, 3.0]))], torch.device("cpu"))[0].maximum.item()
        3.0
    """
    if not states:
        return []
    ranks = world_size()
    if ranks == 1 and device.type == "cpu":
        return list(states)
    packed = [pack(state) for state in states]
    sums = torch.cat([p.sums for p in packed]).to(device)
    maxima = torch.cat([p.maxima for p in packed]).to(device)
    if ranks > 1:
        dist.all_reduce(sums, dist.ReduceOp.SUM)
        dist.all_reduce(maxima, dist.ReduceOp.MAX)
    sums, maxima = sums.cpu(), maxima.cpu()
    whole = []
    for state, p in zip(states, packed, strict=True):
        n, m = p.sums.numel(), p.maxima.numel()
        whole.append(unpack(state, Packed(sums[:n], maxima[:m])))
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
