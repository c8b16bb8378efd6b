"""Rows shared between the two nearest points of fixed grids: what SmoothECE needs at any bandwidth it may end with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype, chunk_elements
from logitwatch.states.protocol import merge_fields, summed

__all__ = ["FINEST", "POINTS", "RESOLUTION", "SmoothingGrids", "grid_intervals"]

RESOLUTION = 1024  # bandwidths are multiples of 1 / 1024: ten halvings of [0, 1]
FINEST = 2  # the smallest of them, since a bandwidth below a thousandth is never asked for


def grid_intervals(bandwidth: int) -> int:
    """How many intervals ``[0, 1]`` has at a bandwidth: ten to a bandwidth, and at least a thousand.

    Args:
        bandwidth: In multiples of 1 / 1024.

    Examples:
        >>> grid_intervals(2), grid_intervals(7), grid_intervals(100)
        (5120, 1463, 1000)
    """
    return max(2000, round(20 * RESOLUTION / bandwidth)) // 2


# The grids of bandwidths 4 and 8 are every second and fourth point of that of 2, the grid of 10 every second of that
# of 5: to share between the points of the finer grid, and then their shares between those of the coarser, is to share
# once. From 11 on all are one.
GRIDS = tuple(grid_intervals(bandwidth) for bandwidth in (11, 5, 2, 3, 6, 7, 9))
POINTS = sum(GRIDS) + len(GRIDS)


@dataclass(frozen=True)
class SmoothingGrids:
    """Rows and summed gaps of confidence and hit, shared linearly between the points of seven grids: 254 KB.

    A row at ``x`` between neighbouring points ``a < b`` is ``(b - x) / (b - a)`` rows at ``a`` and the rest at ``b``.

    Examples:
        >>> one = SmoothingGrids.of(torch.tensor([0.50025]), torch.tensor([False]), torch.tensor([True]))
        >>> masses, gaps = one.at(100)
        >>> [round(mass, 3) for mass in masses[500:503].tolist()], round(gaps.sum().item(), 6)
        ([0.75, 0.25, 0.0], 0.50025)
    """

    points: Tensor = summed()  # float64 [2, POINTS]: rows; confidence less hit

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> SmoothingGrids:
        """See `State.empty`."""
        dtype = accumulator_dtype(torch.device(device))
        return cls(torch.zeros(2, POINTS, dtype=dtype, device=device))

    @classmethod
    def of(cls, confidence: Tensor, correct: Tensor, counted: Tensor) -> SmoothingGrids:
        """The grids of some rows; the arguments are those of `ConfidenceCells.of`."""
        c = confidence.to(accumulator_dtype(confidence.device))
        values = torch.stack((counted.to(c.dtype), c - correct.to(c.dtype)))
        # A row at 1 is on the last point of each grid, and its share of the point after that is nothing.
        points = c.new_zeros(2, POINTS + 1)
        # Each row becomes two shares on each grid, and a share takes two numbers.
        step = max(1, chunk_elements(c.device) // (4 * len(GRIDS)))
        for start in range(0, len(c), step):
            _share(points, c[start : start + step], values[:, start : start + step])
        return cls(points[:, :POINTS].contiguous())

    def merge(self, other: SmoothingGrids) -> SmoothingGrids:
        """See `State.merge`."""
        return merge_fields(self, other)

    def at(self, bandwidth: int) -> Tensor:
        """Masses and gaps ``[2, points]`` on the grid of a bandwidth, given in multiples of 1 / 1024 from 2 on."""
        intervals = grid_intervals(bandwidth)
        finer = next(grid for grid in GRIDS if grid % intervals == 0)
        start = sum(GRIDS[: GRIDS.index(finer)]) + GRIDS.index(finer)
        points = self.points[:, start : start + finer + 1]
        while points.shape[1] > intervals + 1:
            points = _halved(points)
        return points


def _share(points: Tensor, c: Tensor, values: Tensor) -> None:
    """Add rows at ``c`` with values ``[2, rows]`` to the points of all grids, in place."""
    intervals, first = _layout(c.device)
    position = c * intervals
    left = position.long()
    values = values.unsqueeze(1)
    after = values * (position - left)
    place = left.add_(first).flatten().expand(2, -1)
    points.scatter_add_(1, place, (values - after).flatten(1))
    points[:, 1:].scatter_add_(1, place, after.flatten(1))


@cache
def _layout(device: torch.device) -> tuple[Tensor, Tensor]:
    """Intervals and place of the first point of each grid, ``[grids, 1]``."""
    first = [sum(GRIDS[:i]) + i for i in range(len(GRIDS))]
    intervals = torch.tensor(GRIDS, dtype=accumulator_dtype(device), device=device)
    return intervals.unsqueeze(1), torch.tensor(first, device=device).unsqueeze(1)


def _halved(points: Tensor) -> Tensor:
    """The same rows shared between every second point."""
    kept, between = points[:, ::2].clone(), points[:, 1::2] / 2
    kept[:, :-1] += between
    kept[:, 1:] += between
    return kept
