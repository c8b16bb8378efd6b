"""How well confidence sorts right from wrong: the risk of answering only the most confident rows."""

from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.states.rank_cells import RankCells, lower_edges
from logitwatch.states.ranked_calibration import Certified

__all__ = ["RiskCoverageCurve", "area_under_generalized_risk", "area_under_risk", "area_under_roc", "risk_coverage"]


class RiskCoverageCurve(NamedTuple):
    """What is answered and what is wrong of it when rows above a threshold are answered, each ``[3329]``, float64."""

    threshold: Tensor  # confidence, falling
    coverage: Tensor  # fraction answered, rising to 1
    risk: Tensor  # fraction wrong of the answered, NaN before any


def risk_coverage(cells: RankCells) -> RiskCoverageCurve:
    """See `CalibrationSketch.risk_coverage_curve`."""
    answered, misses = (rows.flip(0).cumsum(0).to(cells.gaps.dtype) for rows in (cells.rows, cells.misses))
    return RiskCoverageCurve(lower_edges(answered.device).flip(0), answered / answered[-1], misses / answered)


def area_under_risk(cells: RankCells) -> Certified:
    """See `CalibrationSketch.aurc`."""
    n, wrong = cells.rows.flip(0).to(cells.gaps.dtype), cells.misses.flip(0)
    before, errors = n.cumsum(0) - n, wrong.cumsum(0) - wrong
    # With a rows and E errors before a cell, its j-th of n rows makes the risk (E + j e / n) / (a + j) on average over
    # their orders. Summed over j that is e + (E - a e / n) (H(a + n) - H(a)).
    harmonic = torch.digamma(before + n + 1) - torch.digamma(before + 1)
    rate = torch.where(n > 0, wrong / n, 0.0)
    area = wrong + (errors - before * rate) * harmonic
    # No order of the rows of a cell is further than e (n - e) / n errors from their share.
    return Certified(area.sum() / n.sum(), (rate * (n - wrong) * harmonic).sum() / n.sum())


def area_under_generalized_risk(cells: RankCells) -> Certified:
    """See `CalibrationSketch.augrc`."""
    n, wrong = cells.rows.flip(0).to(cells.gaps.dtype), cells.misses.flip(0)
    errors, total = wrong.cumsum(0) - wrong, n.sum()
    area = (n * (errors + wrong / 2)).sum() / total.square()
    return Certified(area, (wrong * (n - wrong)).sum() / 2 / total.square())


def area_under_roc(cells: RankCells) -> Certified:
    """See `CalibrationSketch.auroc`."""
    right, wrong = cells.hits.to(cells.gaps.dtype), cells.misses.to(cells.gaps.dtype)
    pairs = right.sum() * wrong.sum()
    won = (right * (wrong.cumsum(0) - wrong / 2)).sum()
    return Certified(won / pairs, (right * wrong).sum() / 2 / pairs)
