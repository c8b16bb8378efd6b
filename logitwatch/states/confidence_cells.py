"""Rows sorted into 3600 equal cells of confidence, with the sums that make any union of cells exact."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.states.protocol import merge_fields, summed

__all__ = ["CELLS", "ConfidenceCells"]

CELLS = 3600  # divisible by 45 numbers, among them 1 to 6, 8, 9, 10, 12, 15, 16, 18, 20, 24, 25, 30, 50 and 100
RIGHT, LEFT_OUT = CELLS, 2 * CELLS  # where the cells of right rows begin, and the one slot of rows that do not count


@dataclass(frozen=True)
class ConfidenceCells:
    """Counts, hits, and the first and second moments of confidence and hit, cell by cell: 144 KB.

    Cell ``i`` is ``[i / 3600, (i + 1) / 3600)``, the last closed, with edges rounded once in float64.

    Examples:
        >>> c, right = torch.tensor([0.25, 0.75, 0.75]), torch.tensor([True, True, False])
        >>> halves = ConfidenceCells.of(c, right, torch.ones_like(right)).in_bins(2)
        >>> halves.counts.tolist(), halves.hits.tolist(), halves.confidences.tolist()
        ([1, 2], [1, 1], [0.25, 1.5])
    """

    counts: Tensor = summed()  # int64 [3600]
    hits: Tensor = summed()  # int64 [3600], right rows
    confidences: Tensor = summed()  # float64 [3600]
    squares: Tensor = summed()  # float64 [3600], of the confidences
    hit_confidences: Tensor = summed()  # float64 [3600], confidences of right rows

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> ConfidenceCells:
        """See `State.empty`."""
        counts = torch.zeros(CELLS, dtype=torch.int64, device=device)
        sums = torch.zeros(CELLS, dtype=accumulator_dtype(torch.device(device)), device=device)
        return cls(counts, counts, sums, sums, sums)

    @classmethod
    def of(cls, confidence: Tensor, correct: Tensor, counted: Tensor) -> ConfidenceCells:
        """The cells of some rows, each argument ``[rows]``.

        Args:
            confidence: In ``[0, 1]`` where the row counts, and finite elsewhere.
            correct: Whether the row is right, bool.
            counted: Whether it counts, bool.
        """
        slot = (_cell(confidence) + RIGHT * correct).masked_fill_(~counted, LEFT_OUT)
        counts = torch.zeros(LEFT_OUT + 1, dtype=torch.int64, device=slot.device)
        counts.scatter_add_(0, slot, torch.ones_like(slot))
        c = confidence.to(accumulator_dtype(slot.device))
        powers = torch.stack((c, c.square()))
        sums = powers.new_zeros(2, LEFT_OUT + 1).scatter_add_(1, slot.expand(2, -1), powers)
        hits, right = counts[RIGHT:LEFT_OUT], sums[:, RIGHT:LEFT_OUT]
        confidences, squares = sums[:, :RIGHT] + right
        return cls(counts[:RIGHT] + hits, hits.clone(), confidences, squares, right[0].clone())

    def merge(self, other: ConfidenceCells) -> ConfidenceCells:
        """See `State.merge`."""
        return merge_fields(self, other)

    def in_bins(self, num_bins: int) -> ConfidenceCells:
        """Cells summed into equal-width bins, each field ``[num_bins]``.

        Exact where ``num_bins`` divides 3600. Elsewhere a cell that an edge cuts goes whole to the bin of its centre.

        Raises:
            ValueError: If ``num_bins`` is not in ``[1, 3600]``.
        """
        if not 1 <= num_bins <= CELLS:
            raise ValueError(f"num_bins must be in [1, {CELLS}], got {num_bins}")
        return ConfidenceCells(*(_coarse(getattr(self, f.name), num_bins) for f in dataclasses.fields(self)))

    @property
    def gaps(self) -> Tensor:
        """Summed confidence less hits."""
        return self.confidences - self.hits

    @property
    def squared_gaps(self) -> Tensor:
        """Sum over rows of the squared difference of confidence and hit: the Brier score of the top label."""
        return self.squares - 2 * self.hit_confidences + self.hits

    @property
    def null_variances(self) -> Tensor:
        """Variance of the number of hits of calibrated rows, the sum of ``c (1 - c)``."""
        return (self.confidences - self.squares).clamp(min=0)


def _cell(confidence: Tensor) -> Tensor:
    """Cell of each confidence, int64."""
    dtype = accumulator_dtype(confidence.device)
    cell = (confidence.to(dtype) * CELLS).long().clamp_(0, CELLS - 1)
    if confidence.dtype == dtype:
        # The product may round across an edge, by one cell and no more, so it is compared with the edges themselves.
        edges = _edges(confidence.device)
        return cell - (confidence < edges[cell]).long() + (confidence >= edges[cell + 1]).long()
    # 24 bits times 3600 fit the 53 of float64: the product is exact, and no such number lies between i / 3600 and that
    # edge rounded.
    return cell


@cache
def _edges(device: torch.device) -> Tensor:
    """The edges ``i / 3600`` of the cells, each rounded once; the last cell has no upper one."""
    edges = torch.arange(CELLS + 1, dtype=accumulator_dtype(device), device=device) / CELLS
    edges[-1] = torch.inf
    return edges


def _coarse(cells: Tensor, num_bins: int) -> Tensor:
    """Cells summed into equal-width bins, each cell whole in the bin of its centre."""
    if CELLS % num_bins == 0:
        return cells.view(num_bins, -1).sum(1)
    bin_of_cell = torch.arange(1, 2 * CELLS, 2, device=cells.device).mul_(num_bins) // (2 * CELLS)
    return cells.new_zeros(num_bins).scatter_add_(0, bin_of_cell, cells)
