"""Calibration of any number of predictions in one state of fixed size: every read-out there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.functional.row_statistics import calibration_rows
from logitwatch.functional.rows import flat_rows
from logitwatch.states import binned_error, ranked_calibration, selective_risk, smooth_calibration
from logitwatch.states.binned_error import Interval
from logitwatch.states.confidence_cells import ConfidenceCells
from logitwatch.states.protocol import merge_fields, nested, summed
from logitwatch.states.rank_cells import RankCells
from logitwatch.states.ranked_calibration import Certified
from logitwatch.states.reliability import BrierDecomposition, ReliabilityCurve, decomposed_brier, reliability_of
from logitwatch.states.selective_risk import RiskCoverageCurve
from logitwatch.states.smoothing_grids import SmoothingGrids

__all__ = ["CalibrationSketch"]

_Certifiable = Literal["adaptive_ece", "ks_error", "kuiper_error", "aurc", "augrc", "auroc"]
BY_RANK: dict[str, Callable[[RankCells], Certified]] = {
    "ks_error": ranked_calibration.kolmogorov_smirnov,
    "kuiper_error": ranked_calibration.kuiper,
    "aurc": selective_risk.area_under_risk,
    "augrc": selective_risk.area_under_generalized_risk,
    "auroc": selective_risk.area_under_roc,
}


# More than twelve methods: each is a read-out of one line, and its error is stated where it is read.
@dataclass(frozen=True)
class CalibrationSketch:
    r"""Top-label confidence against correctness, in 534 KB whatever was seen: three views, a few sums, four row counts.

    ``cells`` are equal in confidence and make bins, ``ranks`` are even in log-odds and make whatever depends on order
    alone, ``grids`` make SmoothECE. Counts are int64: no number of rows is too many.

    Rows seen are ``count + nonfinite + ignored + bad_target``; a row is counted under the first of non-finite, ignored
    and bad target that holds. Read-outs are float64 on the device of the state, wait for no device, and are NaN before
    any row. Where ``num_bins`` is an argument it is from 1 to 3600, and "exact" holds where it divides 3600: elsewhere
    each of the at most ``num_bins - 1`` cells that an edge cuts goes whole to the bin of its centre.

    References:
        Błasiok & Nakkiran, "Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing", 2023.
        Diaconis & Zabell, "Closed Form Summation for Classical Distributions", 1991.
        Geifman, Uziel & El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", 2019.
        Guo et al., "On Calibration of Modern Neural Networks", 2017.
        Gupta et al., "Calibration of Neural Networks using Splines", 2021.
        Kumar, Liang & Ma, "Verified Uncertainty Calibration", 2019.
        Nixon et al., "Measuring Calibration in Deep Learning", 2019.
        Spiegelhalter, "Probabilistic Prediction in Patient Management and Clinical Trials", 1986.
        Stephenson, Coelho & Jolliffe, "Two Extra Components in the Brier Score Decomposition", 2008.
        Traub et al., "Overcoming Common Flaws in the Evaluation of Selective Classification Systems", 2024.
        Tygert, "Plots of the Cumulative Differences between Observed and Expected Values", 2020.
        Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.

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

    cells: ConfidenceCells = nested()
    ranks: RankCells = nested()
    grids: SmoothingGrids = nested()
    nll_total: Tensor = summed()  # float64, nats
    brier_total: Tensor = summed()  # float64
    spiegelhalter_total: Tensor = summed()  # float64, of (1 - 2c)^2 c (1 - c)
    nonfinite: Tensor = summed()  # int64, rows
    ignored: Tensor = summed()  # int64, finite rows
    bad_target: Tensor = summed()  # int64, finite rows whose target names no class

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> CalibrationSketch:
        """See `State.empty`."""
        total = torch.zeros((), dtype=accumulator_dtype(torch.device(device)), device=device)
        none = torch.zeros((), dtype=torch.int64, device=device)
        return cls(
            ConfidenceCells.empty(device=device),
            RankCells.empty(device=device),
            SmoothingGrids.empty(device=device),
            *(total, total, total),
            *(none, none, none),
        )

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
        flat = flat_rows(logits, targets, ignore_index=ignore_index)
        return cls.of_rows(*calibration_rows(flat.logits, flat.targets), flat.mask)

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
        nonfinite = confidence.isnan()
        passed_over = nonfinite if mask is None else nonfinite | ~mask
        left_out = passed_over | nll.isnan()
        counted = ~left_out
        correct, confidence = correct & counted, confidence.detach().masked_fill(left_out, 0.0)
        c = confidence.to(accumulator_dtype(confidence.device))
        variance = c - c.square()
        sums = torch.stack((nll.detach(), brier.detach(), torch.addcmul(variance, variance, variance, value=-4)))
        rows = torch.stack((nonfinite, passed_over, left_out)).sum(1)
        return cls(
            ConfidenceCells.of(confidence, correct, counted),
            RankCells.of(confidence, correct, counted),
            SmoothingGrids.of(confidence, correct, counted),
            *sums.masked_fill_(left_out, 0.0).sum(1),
            *rows.diff(prepend=torch.zeros_like(rows[:1])),
        )

    def merge(self, other: CalibrationSketch) -> CalibrationSketch:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def count(self) -> Tensor:
        """Number of rows the read-outs are about, int64."""
        return self.cells.counts.sum()

    def accuracy(self) -> Tensor:
        """Fraction of rows whose prediction is the target. Exact."""
        return self.cells.counts[1].sum().to(self.nll_total.dtype) / self.count

    def mean_confidence(self) -> Tensor:
        """Mean top-label confidence, a fraction. Exact."""
        return self.cells.moments[0].sum() / self.count

    def nll(self) -> Tensor:
        """Mean negative log-likelihood, nats; ``inf`` once a target was an absent class. Exact."""
        return self.nll_total / self.count

    def brier_score(self) -> Tensor:
        """Mean Brier score, summed over classes, in ``[0, 2]``. Exact."""
        return self.brier_total / self.count

    def brier_decomposition(self, num_bins: int = 15) -> BrierDecomposition:
        r"""The Brier score of the top label, mean :math:`(c - y)^2`, in parts that sum to it for any bins. Exact.

        .. math:: \sum_b w_b (\bar c_b - \bar y_b)^2 - \sum_b w_b (\bar y_b - \bar y)^2 + \bar y (1 - \bar y)
            + \tfrac1N \sum_i (c_i - \bar c_{b(i)})^2 - \tfrac2N \sum_i (c_i - \bar c_{b(i)}) (y_i - \bar y_{b(i)})

        For two classes `brier_score` is twice this score. For K classes it adds the squared errors of the other
        probabilities, which sum to :math:`y - c`, and so is at least K / (K - 1) times it.
        """
        return decomposed_brier(self.cells.in_bins(num_bins))

    def ece(self, num_bins: int = 15, norm: Literal["l1", "l2", "max"] = "l1") -> Tensor:
        r"""Expected calibration error: distance of accuracy and confidence over equal-width bins. A fraction.

        .. math:: \sum_b w_b |g_b|, \qquad \sqrt{\textstyle\sum_b w_b g_b^2}, \qquad \max_b |g_b|

        with :math:`g_b` mean confidence less accuracy and :math:`w_b` the share of rows. Empty bins do not count.
        Exact; elsewhere the ``l1`` value is off by at most twice the share of rows in cells that an edge cuts.

        Args:
            num_bins: Number of bins on ``[0, 1]``, from 1 to 3600.
            norm: ``"l1"`` (ECE), ``"l2"`` (root mean square) or ``"max"`` (MCE).

        Raises:
            ValueError: If either argument is none of these.
        """
        return binned_error.calibration_error(self.cells.in_bins(num_bins), norm)

    def overconfidence(self, num_bins: int = 15) -> Tensor:
        """The part of `ece` from bins more confident than accurate. Exact. With `underconfidence` it sums to `ece`,
        less it to mean confidence less accuracy."""
        return binned_error.signed_error(self.cells.in_bins(num_bins), 1)

    def underconfidence(self, num_bins: int = 15) -> Tensor:
        """The part of `ece` from bins less confident than accurate. Exact."""
        return binned_error.signed_error(self.cells.in_bins(num_bins), -1)

    def null_ece(self, num_bins: int = 15) -> Tensor:
        r"""The ``l1`` ECE a perfectly calibrated model is expected to show at these counts and confidences: its bias.

        .. math:: \frac{1}{N} \sum_b E|X_b - n_b \bar p_b|, \qquad
            E|X - n p| = 2 v \binom{n}{v} p^v (1 - p)^{n - v + 1}, \quad v = \lfloor n p \rfloor + 1

        De Moivre's mean absolute deviation of a binomial, exact where a bin's confidences are equal. They differ within
        a bin, so it is scaled by the ratio of the standard deviations, :math:`\sum p_i (1 - p_i)` against
        :math:`n \bar p (1 - \bar p)`. An ``ece`` near this value is no evidence of miscalibration.
        """
        return binned_error.null_error(self.cells.in_bins(num_bins))

    def debiased_ece(self, num_bins: int = 15) -> Tensor:
        r"""Squared ``l2`` calibration error without its bias: signed, not clipped, 0 on average when calibrated. Exact.

        .. math:: \sum_b w_b \left(g_b^2 - s_b^2 / n_b\right)

        with :math:`s_b^2` the sample variance of :math:`c - y` in the bin. Kumar et al. subtract that of :math:`y`,
        which is the same where the confidences of a bin are equal and otherwise takes off too much. A bin of one row
        has no sample variance; :math:`c (1 - c)`, that of a calibrated row, stands for it.
        """
        return binned_error.debiased_squared_error(self.cells.in_bins(num_bins))

    def debiased_l1(self, num_bins: int = 15) -> Tensor:
        r"""``l1`` ECE less the bias that noise of the size :math:`\sigma_b` would add to the gaps seen. Exact; signed.

        .. math:: \sum_b w_b \left(2 |g_b| - E|g_b + \sigma_b Z|\right), \qquad
            E|g + \sigma Z| = \sigma \sqrt{2 / \pi}\, e^{-g^2 / 2 \sigma^2} + |g| \, \mathrm{erf}(|g| / \sigma \sqrt 2)

        with :math:`\sigma_b^2 = \sum c (1 - c) / n_b^2`, the variance of a calibrated bin. What remains of the bias of
        `ece` is about half near calibration and nothing where gaps are far above the noise.
        """
        return binned_error.debiased_l1_error(self.cells.in_bins(num_bins))

    def ece_interval(self, num_bins: int = 15) -> Interval:
        r"""Limits that hold the ``l1`` ECE of the population, in these bins, at least 95 times in 100.

        Noise only adds to :math:`E|g|`, by at most :math:`\sqrt{2 / \pi}\, s_b`, and the standard error of the sum is
        at most that of signed gaps: so the limits are 1.96 standard errors up, and as many and the largest bias down.
        They hold at any error, 0 included, as far as the sum over bins is normal, and are wider than 95 % asks for.
        """
        return binned_error.error_interval(self.cells.in_bins(num_bins))

    def reliability_curve(self, num_bins: int = 15) -> ReliabilityCurve:
        """Accuracy against confidence in equal-width bins, with the 95 % Wilson interval of the accuracy. Exact."""
        return reliability_of(self.cells.in_bins(num_bins))

    def adaptive_ece(self, num_bins: int = 15) -> Tensor:
        """``l1`` ECE over bins of ``count / num_bins`` rows each, in order of confidence; of any number of bins.

        A cell that a boundary cuts is shared in proportion, so the order of equal confidences is of no account; within
        `certified_error`.
        """
        return ranked_calibration.equal_mass_error(self.ranks, num_bins).value

    def smooth_ece(self) -> Tensor:
        """Calibration error smoothed by a reflected Gaussian as wide as the error: SmoothECE, a fraction.

        What relplot's ``smECE`` gives for all rows at once, to 1e-12, its bandwidths in steps of 1 / 1024 included;
        the time it takes does not depend on the number of rows.
        """
        return smooth_calibration.smooth_calibration_error(self.grids)

    def smooth_reliability_curve(self) -> smooth_calibration.SmoothReliabilityCurve:
        """Accuracy against confidence without bins: kernel regression at the bandwidth of `smooth_ece`, to 1e-3."""
        return smooth_calibration.smooth_reliability_curve(self.grids)

    def ks_error(self) -> Tensor:
        """Largest absolute sum of the gaps of the least confident rows, over all rows: no bins. A fraction.

        At most the value over rows, and less by at most `certified_error`. Gaps of opposite sign cancel.
        """
        return ranked_calibration.kolmogorov_smirnov(self.ranks).value

    def kuiper_error(self) -> Tensor:
        """Largest absolute sum of the gaps of rows adjacent in confidence, over all rows; certified as `ks_error`."""
        return ranked_calibration.kuiper(self.ranks).value

    def spiegelhalter_z(self) -> Tensor:
        r"""How many standard errors the top-label Brier score is above that of a calibrated model. Exact.

        .. math:: \sum (y - c)(1 - 2c) \Big/ \sqrt{\textstyle\sum (1 - 2c)^2 c (1 - c)}

        Standard normal for many calibrated rows; too high a confidence makes it positive. Meant to be read once: looked
        at again and again it leaves the 95 % range sooner or later.
        """
        rows = self.cells.in_bins(1)
        excess = (rows.squared_gaps - rows.null_variances).sum()
        return torch.where(self.count > 0, excess / self.spiegelhalter_total.sqrt(), torch.nan)

    def aurc(self) -> Tensor:
        """Area under the risk-coverage curve: mean over k of the fraction wrong among the k most confident rows.

        The convention of Geifman: k from 1 to the number of rows. Equal confidences are averaged over their orders, so
        the order of rows is of no account; within `certified_error`.
        """
        return selective_risk.area_under_risk(self.ranks).value

    def augrc(self) -> Tensor:
        r"""Area under the generalized risk, the rows answered wrong over all rows, from coverage 0 to 1 by trapezoids.

        .. math:: (1 - \mathrm{AUROC}) a (1 - a) + (1 - a)^2 / 2

        with :math:`a` the accuracy; half where every row is wrong. Within `certified_error`.
        """
        return selective_risk.area_under_generalized_risk(self.ranks).value

    def auroc(self) -> Tensor:
        """Chance that a right row is more confident than a wrong one, ties half; NaN without both. Within
        `certified_error`."""
        return selective_risk.area_under_roc(self.ranks).value

    def risk_coverage_curve(self) -> RiskCoverageCurve:
        """Coverage and risk where all rows above a threshold are answered, most confident first. Exact at each
        threshold: the edges of 3329 cells."""
        return selective_risk.risk_coverage(self.ranks)

    def certified_error(self, read_out: _Certifiable, num_bins: int = 15) -> Tensor:
        """The most by which a read-out can differ from that of the rows themselves, whatever these were.

        Args:
            read_out: Its name; the others are exact, or say how they are not.
            num_bins: Of `adaptive_ece`.
        """
        if read_out == "adaptive_ece":
            return ranked_calibration.equal_mass_error(self.ranks, num_bins).error
        if read_out not in BY_RANK:
            raise ValueError(f"read_out must be adaptive_ece, {', '.join(BY_RANK)}, got {read_out!r}")
        return BY_RANK[read_out](self.ranks).error
