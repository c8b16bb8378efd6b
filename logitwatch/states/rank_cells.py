"""Rows sorted into 3329 cells as narrow as confidence is extreme: all that depends on ranks alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.states.protocol import merge_fields, summed

__all__ = ["RANK_CELLS", "RankCells", "lower_edges"]

# Equal parts of each doubling of c below a half and of 1 - c above: neighbours differ by 1/64 to 1/128 in odds.
PARTS_BITS = 6
PARTS = 1 << PARTS_BITS
# Doublings with cells of their own. A uniform guess among a million classes is 2 ** -20; a float32 below 1 is at most
# 1 - 2 ** -24, and float64 logits are told apart up to 1 - 2 ** -33.
LOW, HIGH = 20, 32
LOW_CELLS = LOW * PARTS + 1  # exactly a half has a cell of its own
RANK_CELLS = LOW_CELLS + HIGH * PARTS


@dataclass(frozen=True)
class RankCells:
    """Counts and summed confidence of wrong and right rows, in cells ordered by confidence, even in log-odds: 107 KB.

    Rows of one cell are tied. A cell is found from the leading bits of ``c`` or ``1 - c``, so it is the same on every
    device, without a logarithm and without a search.

    Examples:
        >>> c, right = torch.tensor([0.9, 0.999, 1.0]), torch.tensor([False, True, True])
        >>> seen = RankCells.of(c, right, torch.ones_like(right))
        >>> seen.rows.nonzero().flatten().tolist(), seen.hits.nonzero().flatten().tolist()
        ([1434, 1855, 3328], [1855, 3328])
    """

    counts: Tensor = summed()  # int64 [2, 3329]: wrong, right
    confidences: Tensor = summed()  # float64 [2, 3329]: of wrong rows, of right ones

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> RankCells:
        """See `State.empty`."""
        dtype = accumulator_dtype(torch.device(device))
        return cls(
            torch.zeros(2, RANK_CELLS, dtype=torch.int64, device=device),
            torch.zeros(2, RANK_CELLS, dtype=dtype, device=device),
        )

    @classmethod
    def of(cls, confidence: Tensor, correct: Tensor, counted: Tensor) -> RankCells:
        """The cells of some rows; the arguments are those of `ConfidenceCells.of`."""
        c = confidence.to(accumulator_dtype(confidence.device))
        cell = _cell(c).add_(correct, alpha=RANK_CELLS)
        counts = torch.zeros(2 * RANK_CELLS, dtype=torch.int64, device=cell.device)
        counts.scatter_add_(0, cell, counted.long())
        confidences = c.new_zeros(2 * RANK_CELLS).scatter_add_(0, cell, c)
        return cls(counts.view(2, RANK_CELLS), confidences.view(2, RANK_CELLS))

    def merge(self, other: RankCells) -> RankCells:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def rows(self) -> Tensor:
        """Rows of each cell, int64."""
        return self.counts.sum(0)

    @property
    def misses(self) -> Tensor:
        """Wrong rows, int64."""
        return self.counts[0]

    @property
    def hits(self) -> Tensor:
        """Right rows, int64."""
        return self.counts[1]

    @property
    def gaps(self) -> Tensor:
        """Summed confidence less hits."""
        return self.confidences.sum(0) - self.hits


def lower_edges(device: torch.device) -> Tensor:
    """The infimum of the confidences of each cell, ``[3329]``; that of the first is 0."""
    dtype = accumulator_dtype(device)
    low = torch.arange(LOW_CELLS, device=device)
    # Cells above a half are closed above: the infimum of c is the supremum of 1 - c, the next of its leading bits.
    high = torch.arange(HIGH * PARTS, 0, -1, device=device)
    edges = torch.cat((_value(low, LOW, dtype), 1 - _value(high, HIGH, dtype)))
    edges[0] = 0
    return edges


def _cell(c: Tensor) -> Tensor:
    """Cell of each confidence, int64, in order of confidence; ``c`` is in the accumulator type."""
    rest = 1 - c  # exact above a half
    leading, half = _leading_bits(torch.minimum(c, rest)), _half(c.dtype)
    above = RANK_CELLS - 1 + half - HIGH * PARTS - leading
    return torch.where(rest < c, above, leading - (half - LOW * PARTS)).clamp_(0, RANK_CELLS - 1)


def _leading_bits(x: Tensor) -> Tensor:
    """Exponent and the first bits of the fraction of non-negative numbers: an integer in their order."""
    if x.dtype == torch.float64:
        return torch.bitwise_right_shift(x.view(torch.int64), 52 - PARTS_BITS)
    return torch.bitwise_right_shift(x.view(torch.int32), 23 - PARTS_BITS).long()


def _value(index: Tensor, doublings: int, dtype: torch.dtype) -> Tensor:
    """The smallest number with these leading bits, counted from ``2 ** -doublings / 2``."""
    leading = index + (_half(dtype) - doublings * PARTS)
    if dtype == torch.float64:
        return torch.bitwise_left_shift(leading, 52 - PARTS_BITS).view(dtype)
    return torch.bitwise_left_shift(leading, 23 - PARTS_BITS).to(torch.int32).view(dtype)


def _half(dtype: torch.dtype) -> int:
    """Leading bits of one half."""
    return (1022 if dtype == torch.float64 else 126) * PARTS
