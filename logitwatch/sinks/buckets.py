"""Counts between fewer edges, for backends that draw or take only so many."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

__all__ = ["coarser"]


def coarser(counts: Sequence[int], edges: Sequence[float], most: int) -> tuple[list[int], list[float]]:
    """Histogram of at most ``most`` buckets: neighbours are joined in equal groups, so every count stays exact.

    Args:
        counts: ``n`` counts.
        edges: ``n + 1`` edges.
        most: Largest number of buckets, at least 1.

    Returns:
        Counts and edges as lists of plain numbers; the last group may be narrower. Unchanged where they are few enough.

    Examples:
        >>> coarser([1, 2, 3, 4, 5], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 3)
        ([3, 7, 5], [0.0, 2.0, 4.0, 5.0])
        >>> coarser([], [0.0], 3)
        ([], [0.0])
    """
    counts, edges = [int(count) for count in counts], [float(edge) for edge in edges]
    width = -(-len(counts) // most)
    if width <= 1:
        return counts, edges
    sums = [0, *accumulate(counts)]
    bounds = [*range(0, len(counts), width), len(counts)]
    return [sums[high] - sums[low] for low, high in pairwise(bounds)], [edges[bound] for bound in bounds]
