"""Calibration of any number of predictions in 3600 fixed cells of confidence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.functional.row_statistics import row_statistics
from logitwatch.states.protocol import merge_fields, summed

__all__ = ["CalibrationSketch", "ReliabilityCurve"]

CELLS = 3600  # divisible by 45 numbers, among them 1 to 6, 8, 9, 10, 12, 15, 16, 18, 20, 24, 25, 30, 50 and 100
# A row that no cell counts falls into one of three slots behind the cells of wrong and the cells of right rows.
NONFINITE, IGNORED, BAD_TARGET, SLOTS = 2 * CELLS, 2 * CELLS + 1, 2 * CELLS + 2, 2 * CELLS + 3
WILSON_Z = 1.959963984540054  # a standard normal is within this of 0 with probability 0.95
# Above this variance the normal limit of a binomial's mean absolute deviation is the more accurate of the two.
NORMAL_VARIANCE = 1e6


class ReliabilityCurve(NamedTuple):
    """What each confidence bin promised and what it kept, each ``[num_bins]``; NaN where a bin is empty."""

    counts: Tensor  # int64
    confidence: Tensor  # mean confidence, float64
    accuracy: Tensor  # fraction correct, float64
    lower: Tensor  # 95 % Wilson interval of the accuracy, float64
    upper: Tensor


@dataclass(frozen=True)
class CalibrationSketch:
    r"""Counts, hits and summed confidence in 3600 equal cells of top-label confidence: every binned read-out in 86 KB.

    Cell ``i`` is ``[i / 3600, (i + 1) / 3600)``, the last closed, with edges rounded once in float64. Bins whose number
    divides 3600 are unions of cells, so their read-outs are exact. Counts are int64: no number of rows is too many.

    Rows seen are ``count + nonfinite + ignored + bad_target``; a row is counted under the first of non-finite, ignored
    and bad target that holds. Read-outs are float64 on the device of the state, and NaN before any row.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", 2017.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [float("nan"), 0.0]])
        >>> seen = CalibrationSketch.of(logits, torch.tensor([0, 1, -100, 0]))
        >>> seen.count.item(), seen.ignored.item(), seen.nonfinite.item(), seen.accuracy().item()
        (2, 1, 1, 0.5)
        >>> round(seen.ece().item(), 6)  # |0.880797 - 0.5|
        0.380797
        >>> CalibrationSketch.empty().ece().item()
        nan
    """

    counts: Tensor = summed()  # int64 [3600]
    hits: Tensor = summed()  # int64 [3600], correct rows
    confidences: Tensor = summed()  # float64 [3600]
    nll_total: Tensor = summed()  # float64, nats
    brier_total: Tensor = summed()  # float64
    nonfinite: Tensor = summed()  # int64, rows
    ignored: Tensor = summed()  # int64, finite rows
    bad_target: Tensor = summed()  # int64, finite rows whose target names no class

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> CalibrationSketch:
        """See `State.empty`."""
        dtype = accumulator_dtype(torch.device(device))
        cells = torch.zeros(CELLS, dtype=torch.int64, device=device)
        total, none = torch.zeros((), dtype=dtype, device=device), torch.zeros((), dtype=torch.int64, device=device)
        return cls(cells, cells, cells.to(dtype), total, total, none, none, none)

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor, *, ignore_index: int = -100) -> CalibrationSketch:
        """Sketch of a batch of logits.

        Args:
            logits: ``[..., classes]``, two classes or more, any real type.
            targets: Class indices ``[...]``, or probabilities ``[..., classes]``, of which the largest is the label.
            ignore_index: Rows with this class index are counted as ignored and otherwise left out.

        Raises:
            ValueError: If there are fewer than two classes, or ``targets`` has neither shape.
        """
        if logits.ndim == 0 or logits.shape[-1] < 2:
            raise ValueError(
                f"logits must be [..., classes] with two classes or more, got {tuple(logits.shape)}; for one logit z "
                "per row pass torch.stack((torch.zeros_like(z), z), dim=-1)"
            )
        soft = targets.is_floating_point()
        expected = logits.shape if soft else logits.shape[:-1]
        if targets.shape != expected:
            raise ValueError(
                f"targets must be integer of shape {tuple(logits.shape[:-1])} or probabilities of shape "
                f"{tuple(logits.shape)}, got {targets.dtype} of shape {tuple(targets.shape)}"
            )
        targets = targets.detach().reshape(-1, logits.shape[-1]) if soft else targets.reshape(-1)
        rows = row_statistics(logits.detach().reshape(-1, logits.shape[-1]), targets)
        mask = None if soft else targets != ignore_index
        return cls.of_rows(rows.confidence, rows.correct, rows.nll, rows.brier, mask)

    @classmethod
    def of_rows(
        cls, confidence: Tensor, correct: Tensor, nll: Tensor, brier: Tensor, mask: Tensor | None = None
    ) -> CalibrationSketch:
        """Sketch of rows whose quantities are known, as `RowStatistics` names them; each argument is ``[rows]``.

        Args:
            confidence: Top-label confidence; a row where it is NaN counts as non-finite.
            correct: Whether the prediction is the target, bool.
            nll: Nats; a row where it alone is NaN counts as having a bad target.
            brier: Brier score.
            mask: True for rows to count; the others are counted as ignored.
        """
        slot = _slots(confidence, correct, nll, mask)
        table = torch.zeros(SLOTS, dtype=torch.int64, device=slot.device)
        table.scatter_add_(0, slot, torch.ones_like(slot))
        dtype = accumulator_dtype(slot.device)
        sums = torch.zeros(SLOTS, dtype=dtype, device=slot.device)
        sums.scatter_add_(0, slot, confidence.detach().to(dtype))
        totals = torch.stack((nll.detach(), brier.detach())).to(dtype).masked_fill_(slot >= NONFINITE, 0.0).sum(1)
        hits = table[CELLS:NONFINITE]
        return cls(table[:CELLS] + hits, hits, sums[:CELLS] + sums[CELLS:NONFINITE], *totals, *table[NONFINITE:])

    def merge(self, other: CalibrationSketch) -> CalibrationSketch:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def count(self) -> Tensor:
        """Number of rows the read-outs are about, int64."""
        return self.counts.sum()

    def ece(self, num_bins: int = 15, norm: Literal["l1", "l2", "max"] = "l1") -> Tensor:
        r"""Expected calibration error: distance of accuracy and confidence over equal-width bins. A fraction.

        .. math:: \sum_b w_b |g_b|, \qquad \sqrt{\textstyle\sum_b w_b g_b^2}, \qquad \max_b |g_b|

        with :math:`g_b` mean confidence less accuracy and :math:`w_b` the share of rows. Empty bins do not count.

        Exact where ``num_bins`` divides 3600. Elsewhere each of the at most ``num_bins - 1`` cells that an edge cuts
        goes whole to the bin of its centre, and the ``l1`` value is off by at most twice the share of rows in them.

        Args:
            num_bins: Number of bins on ``[0, 1]``, from 1 to 3600.
            norm: ``"l1"`` (ECE), ``"l2"`` (root mean square) or ``"max"`` (MCE).

        Raises:
            ValueError: If either argument is none of these.
        """
        counts, hits, confidences = _bins(self, num_bins)
        gap = torch.where(counts > 0, (confidences - hits) / counts, 0.0).abs()
        match norm:
            case "l1":
                return (confidences - hits).abs().sum() / counts.sum()
            case "l2":
                return ((counts * gap.square()).sum() / counts.sum()).sqrt()
            case "max":
                return torch.where(counts.sum() > 0, gap.amax(), torch.nan)
            case _:
                raise ValueError(f'norm must be "l1", "l2" or "max", got {norm!r}')

    def reliability_curve(self, num_bins: int = 15) -> ReliabilityCurve:
        """Accuracy against confidence in equal-width bins, with the 95 % Wilson interval of the accuracy.

        Args:
            num_bins: As in `ece`.

        References:
            Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
        """
        counts, hits, confidences = _bins(self, num_bins)
        n = counts.to(confidences.dtype)
        p, z2 = hits / n, WILSON_Z**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        radius = WILSON_Z / (1 + z2 / n) * (p * (1 - p) / n + z2 / (4 * n.square())).sqrt()
        # Rounding must not push the limit of a bin that is all right or all wrong past its own accuracy.
        lower, upper = torch.minimum(centre - radius, p).clamp(min=0), torch.maximum(centre + radius, p).clamp(max=1)
        return ReliabilityCurve(counts, confidences / n, p, lower, upper)

    def null_ece(self, num_bins: int = 15) -> Tensor:
        r"""The ``l1`` ECE a perfectly calibrated model is expected to show at these counts and confidences: its bias.

        .. math:: \frac{1}{N} \sum_b E|X_b - n_b \bar p_b|, \qquad
            E|X - n p| = 2 v \binom{n}{v} p^v (1 - p)^{n - v + 1}, \quad v = \lfloor n p \rfloor + 1

        De Moivre's mean absolute deviation of a binomial, exact where a bin's confidences are equal. They differ within
        a bin, so it is scaled by the ratio of the standard deviations, :math:`\sum p_i (1 - p_i)` against
        :math:`n \bar p (1 - \bar p)`. An ``ece`` near this value is no evidence of miscalibration.

        Args:
            num_bins: As in `ece`.

        References:
            Diaconis & Zabell, "Closed Form Summation for Classical Distributions", 1991.
        """
        counts, _, confidences = _bins(self, num_bins)
        n = counts.to(confidences.dtype)
        # The mean of a cell stands for its rows: that changes the sum of p (1 - p) by less than n / 5e7.
        variances = self.confidences * (1 - self.confidences / self.counts)
        spread = _coarse(torch.where(self.counts > 0, variances, 0.0), num_bins).clamp(min=0)
        return _mean_absolute_deviation(n, confidences / n, spread).sum() / n.sum()

    def brier_score(self) -> Tensor:
        """Mean Brier score, summed over classes, in ``[0, 2]``."""
        return self.brier_total / self.count

    def nll(self) -> Tensor:
        """Mean negative log-likelihood, nats; ``inf`` once a target was an absent class."""
        return self.nll_total / self.count

    def accuracy(self) -> Tensor:
        """Fraction of rows whose prediction is the target."""
        return self.hits.sum().to(self.nll_total.dtype) / self.count

    def mean_confidence(self) -> Tensor:
        """Mean top-label confidence, a fraction."""
        return self.confidences.sum() / self.count


def _slots(confidence: Tensor, correct: Tensor, nll: Tensor, mask: Tensor | None) -> Tensor:
    """Where each row is counted, int64: its cell, that plus 3600 for a correct row, or the reason it has none."""
    slot = _cell(confidence.detach()) + CELLS * correct
    slot.masked_fill_(nll.isnan(), BAD_TARGET)
    if mask is not None:
        slot.masked_fill_(~mask, IGNORED)
    return slot.masked_fill_(confidence.isnan(), NONFINITE)


def _cell(confidence: Tensor) -> Tensor:
    """Cell of each confidence, int64; of NaN any cell."""
    dtype = accumulator_dtype(confidence.device)
    if confidence.dtype == dtype:
        # The product could round across an edge, so the edges are searched.
        return torch.bucketize(confidence, _inner_edges(confidence.device), right=True)
    # 24 bits times 3600 fit the 53 of float64: the product is exact, and no such number lies between i / 3600 and that
    # edge rounded.
    return (confidence.to(dtype) * CELLS).long().clamp_(0, CELLS - 1)


@cache
def _inner_edges(device: torch.device) -> Tensor:
    """The edges ``i / 3600`` between cells, each rounded once."""
    return torch.arange(1, CELLS, dtype=accumulator_dtype(device), device=device) / CELLS


def _coarse(cells: Tensor, num_bins: int) -> Tensor:
    """Cells summed into equal-width bins, each cell whole in the bin of its centre."""
    if not 1 <= num_bins <= CELLS:
        raise ValueError(f"num_bins must be in [1, {CELLS}], got {num_bins}")
    if CELLS % num_bins == 0:
        return cells.view(num_bins, -1).sum(1)
    bin_of_cell = torch.arange(1, 2 * CELLS, 2, device=cells.device).mul_(num_bins) // (2 * CELLS)
    return cells.new_zeros(num_bins).scatter_add_(0, bin_of_cell, cells)


def _bins(sketch: CalibrationSketch, num_bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Counts, hits and summed confidence of equal-width bins."""
    return (
        _coarse(sketch.counts, num_bins),
        _coarse(sketch.hits, num_bins),
        _coarse(sketch.confidences, num_bins),
    )


def _mean_absolute_deviation(n: Tensor, p: Tensor, variance: Tensor) -> Tensor:
    """Of a sum of ``n`` coin flips of mean probability ``p`` and summed variance ``variance``; 0 for no flip."""
    q = 1 - p
    v = (n * p).floor() + 1
    log_mean = (
        v.log() + torch.lgamma(n + 1) - torch.lgamma(v + 1) - torch.lgamma(n - v + 1) + torch.xlogy(v, p)
    ) + torch.xlogy(n - v + 1, q)
    equal = n * p * q
    exact = 2 * log_mean.exp() * (variance / equal).sqrt()
    limit = (2 / math.pi * variance).sqrt()
    return torch.where(equal > 0, torch.where(equal > NORMAL_VARIANCE, limit, exact), 0.0)
