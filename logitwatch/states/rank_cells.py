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
RIGHT, LEFT_OUT = RANK_CELLS, 2 * RANK_CELLS


@dataclass(frozen=True)
class RankCells:
    """Counts, hits and summed confidence in cells ordered by confidence, even in log-odds: 107 KB.

    Rows of one cell are tied. A cell is found from the leading bits of ``c`` or ``1 - c``, so it is the same on every
    device, without a logarithm and without a search.

    Examples:
        >>> c, right = torch.tensor([0.9, 0.999, 1.0]), torch.tensor([False, True, True])
        >>> seen = RankCells.of(c, right, torch.ones_like(right))
        >>> seen.counts.nonzero().flatten().tolist(), seen.counts[-1].item()
        ([1434, 1855, 3328], 1)
    """

    counts: Tensor = summed()  # int64 [3329]
    hits: Tensor = summed()  # int64 [3329], right rows
    confidences: Tensor = summed()  # float64 [3329]
    hit_confidences: Tensor = summed()  # float64 [3329], confidences of right rows

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> RankCells:
        """See `State.empty`."""
        counts = torch.zeros(RANK_CELLS, dtype=torch.int64, device=device)
        sums = torch.zeros(RANK_CELLS, dtype=accumulator_dtype(torch.device(device)), device=device)
        return cls(counts, counts, sums, sums)

    @classmethod
    def of(cls, confidence: Tensor, correct: Tensor, counted: Tensor) -> RankCells:
        """The cells of some rows; the arguments are those of `ConfidenceCells.of`."""
        c = confidence.to(accumulator_dtype(confidence.device))
        slot = (_cell(c) + RIGHT * correct).masked_fill_(~counted, LEFT_OUT)
        counts = torch.zeros(LEFT_OUT + 1, dtype=torch.int64, device=slot.device)
        counts.scatter_add_(0, slot, torch.ones_like(slot))
        sums = c.new_zeros(LEFT_OUT + 1).scatter_add_(0, slot, c)
        hits, right = counts[RIGHT:LEFT_OUT], sums[RIGHT:LEFT_OUT]
        return cls(counts[:RIGHT] + hits, hits.clone(), sums[:RIGHT] + right, right.clone())

    def merge(self, other: RankCells) -> RankCells:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def gaps(self) -> Tensor:
        """Summed confidence less hits."""
        return self.confidences - self.hits

    @property
    def misses(self) -> Tensor:
        """Wrong rows, int64."""
        return self.counts - self.hits


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
    high = c > 0.5
    x = torch.where(high, 1 - c, c)  # exact above a half
    leading = _leading_bits(x)
    below = (leading - (_half(x.dtype) - LOW * PARTS)).clamp_(min=0)
    above = RANK_CELLS - 1 - (leading - (_half(x.dtype) - HIGH * PARTS)).clamp_(min=0)
    return torch.where(high, above, below)


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
