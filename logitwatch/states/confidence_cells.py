"""Rows sorted into 3600 equal cells of confidence, with the sums that make any union of cells exact."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.states.protocol import merge_fields, summed

__all__ = ["CELLS", "Bins", "ConfidenceCells"]

CELLS = 3600  # divisible by 45 numbers, among them 1 to 6, 8, 9, 10, 12, 15, 16, 18, 20, 24, 25, 30, 50 and 100


class Bins(NamedTuple):
    """Sums over the rows of each equal-width bin, each ``[num_bins]``; counts int64, the others float64."""

    counts: Tensor
    hits: Tensor  # right rows
    confidences: Tensor
    squares: Tensor  # of the confidences
    hit_confidences: Tensor  # confidences of right rows

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


@dataclass(frozen=True)
class ConfidenceCells:
    """Counts and the first two moments of confidence, cell by cell, of wrong rows and of right ones: 173 KB.

    Cell ``i`` is ``[i / 3600, (i + 1) / 3600)``, the last closed, with edges rounded once in float64.

    Examples:
        >>> c, right = torch.tensor([0.25, 0.75, 0.75]), torch.tensor([True, True, False])
        >>> halves = ConfidenceCells.of(c, right, torch.ones_like(right)).in_bins(2)
        >>> halves.counts.tolist(), halves.hits.tolist(), halves.confidences.tolist()
        ([1, 2], [1, 1], [0.25, 1.5])
    """

    counts: Tensor = summed()  # int64 [2, 3600]: wrong, right
    moments: Tensor = summed()  # float64 [2, 2, 3600]: first power, second; each of wrong and right

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> ConfidenceCells:
        """See `State.empty`."""
        dtype = accumulator_dtype(torch.device(device))
        return cls(
            torch.zeros(2, CELLS, dtype=torch.int64, device=device),
            torch.zeros(2, 2, CELLS, dtype=dtype, device=device),
        )

    @classmethod
    def of(cls, confidence: Tensor, correct: Tensor, counted: Tensor) -> ConfidenceCells:
        """The cells of some rows, each argument ``[rows]``.

        Args:
            confidence: In ``[0, 1]``; 0 where the row does not count.
            correct: Whether the row is right, bool; False where it does not count.
            counted: Whether it counts, bool.
        """
        cell = _cell(confidence).add_(correct, alpha=CELLS)
        counts = torch.zeros(2 * CELLS, dtype=torch.int64, device=cell.device)
        counts.scatter_add_(0, cell, counted.long())
        c = confidence.to(accumulator_dtype(cell.device))
        powers = torch.stack((c, c.square()))
        moments = powers.new_zeros(2, 2 * CELLS).scatter_add_(1, cell.expand(2, -1), powers)
        return cls(counts.view(2, CELLS), moments.view(2, 2, CELLS))

    def merge(self, other: ConfidenceCells) -> ConfidenceCells:
        """See `State.merge`."""
        return merge_fields(self, other)

    def in_bins(self, num_bins: int) -> Bins:
        """Cells summed into equal-width bins.

        Exact where ``num_bins`` divides 3600. Elsewhere a cell that an edge cuts goes whole to the bin of its centre.

        Raises:
            ValueError: If ``num_bins`` is not in ``[1, 3600]``.
        """
        counts, (confidences, squares) = _coarse(self.counts, num_bins), _coarse(self.moments, num_bins)
        return Bins(counts.sum(0), counts[1], confidences.sum(0), squares.sum(0), confidences[1])


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
    """Cells ``[..., 3600]`` summed into equal-width bins, each cell whole in the bin of its centre."""
    if not 1 <= num_bins <= CELLS:
        raise ValueError(f"num_bins must be in [1, {CELLS}], got {num_bins}")
    if CELLS % num_bins == 0:
        return cells.view(*cells.shape[:-1], num_bins, -1).sum(-1)
    bin_of_cell = torch.arange(1, 2 * CELLS, 2, device=cells.device).mul_(num_bins) // (2 * CELLS)
    return cells.new_zeros(*cells.shape[:-1], num_bins).scatter_add_(-1, bin_of_cell.expand_as(cells), cells)
