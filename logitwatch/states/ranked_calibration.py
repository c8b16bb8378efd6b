"""Calibration over rows in order of confidence: bins of equal mass, and the largest partial sums of the gaps."""

from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.states.rank_cells import RANK_CELLS, RankCells, lower_edges

__all__ = ["Certified", "equal_mass_error", "kolmogorov_smirnov", "kuiper"]


class Certified(NamedTuple):
    """A read-out of the cells, and how far that of the rows themselves can be from it, both float64."""

    value: Tensor
    error: Tensor


def equal_mass_error(cells: RankCells, num_bins: int) -> Certified:
    """See `CalibrationSketch.adaptive_ece`."""
    if num_bins < 1:
        raise ValueError(f"num_bins must be >= 1, got {num_bins}")
    gaps, counts = _from_nothing(cells.gaps), _from_nothing(cells.rows).to(cells.gaps.dtype)
    total = counts[-1]
    cut = torch.arange(1, num_bins, dtype=gaps.dtype, device=gaps.device) / num_bins * total
    cell = (torch.searchsorted(counts, cut, right=True) - 1).clamp(max=RANK_CELLS - 1)
    rows, hits = cells.rows[cell].to(gaps.dtype), cells.hits[cell]
    share = torch.where(rows > 0, (cut - counts[cell]) / rows, 0.0)
    at_cut = torch.cat((gaps[:1], gaps[cell] + share * cells.gaps[cell], gaps[-1:]))
    # A cut within a cell takes some rows of it, the best or worst of them: this many hits and this much confidence
    # apart from its share of them.
    inside = (share > 0) & (share < 1)
    spread = hits * (rows - hits) / rows + rows / 4 * _widths(cells)[cell]
    return Certified(at_cut.diff().abs().sum() / total, 2 * torch.where(inside, spread, 0.0).sum() / total)


def kolmogorov_smirnov(cells: RankCells) -> Certified:
    """See `CalibrationSketch.ks_error`."""
    sums, highest, lowest = _partial_sums(cells)
    value = sums.abs().amax()
    return Certified(value, torch.maximum(highest, -lowest) - value)


def kuiper(cells: RankCells) -> Certified:
    """See `CalibrationSketch.kuiper_error`."""
    sums, highest, lowest = _partial_sums(cells)
    value = sums.amax() - sums.amin()
    return Certified(value, highest - lowest - value)


def _partial_sums(cells: RankCells) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the gaps up to each edge, over all rows; the largest and the smallest they can be amid a cell."""
    sums, total = _from_nothing(cells.gaps), cells.counts.sum()
    of_wrong, of_right = cells.confidences
    # Within a cell all wrong rows may come first, or all right ones.
    highest = (sums[:-1] + of_wrong).amax()
    lowest = (sums[:-1] + of_right - cells.hits).amin()
    return sums / total, highest / total, lowest / total


def _from_nothing(values: Tensor) -> Tensor:
    """Cumulative sums that begin with 0."""
    return torch.cat((values.new_zeros(1), values.cumsum(0)))


def _widths(cells: RankCells) -> Tensor:
    edges = lower_edges(cells.counts.device)
    return torch.cat((edges[1:], edges.new_ones(1))) - edges
