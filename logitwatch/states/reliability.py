"""What each bin of confidence promised and kept, and the parts of the Brier score that bins tell apart."""

from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.states.binned_error import WILSON_Z
from logitwatch.states.confidence_cells import Bins

__all__ = ["BrierDecomposition", "ReliabilityCurve", "decomposed_brier", "reliability_of"]


class ReliabilityCurve(NamedTuple):
    """What each confidence bin promised and what it kept, each ``[num_bins]``; NaN where a bin is empty."""

    counts: Tensor  # int64
    confidence: Tensor  # mean confidence, float64
    accuracy: Tensor  # fraction correct, float64
    lower: Tensor  # 95 % Wilson interval of the accuracy, float64
    upper: Tensor


class BrierDecomposition(NamedTuple):
    """Parts of the Brier score of the top label, float64: ``brier`` is the sum of the others with ``resolution`` and
    ``within_bin_covariance`` negative."""

    brier: Tensor
    reliability: Tensor  # squared gaps of the bins: 0 when calibrated
    resolution: Tensor  # variance of the bins' accuracies: how much confidence tells
    uncertainty: Tensor  # variance of being right: accuracy times error
    within_bin_variance: Tensor  # of confidence
    within_bin_covariance: Tensor  # of confidence and being right, twice


def reliability_of(bins: Bins) -> ReliabilityCurve:
    """See `CalibrationSketch.reliability_curve`."""
    n = bins.counts.to(bins.confidences.dtype)
    p, z2 = bins.hits / n, WILSON_Z**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    radius = WILSON_Z / (1 + z2 / n) * (p * (1 - p) / n + z2 / (4 * n.square())).sqrt()
    # Rounding must not push the limit of a bin that is all right or all wrong past its own accuracy.
    lower, upper = torch.minimum(centre - radius, p).clamp(min=0), torch.maximum(centre + radius, p).clamp(max=1)
    return ReliabilityCurve(bins.counts, bins.confidences / n, p, lower, upper)


def decomposed_brier(bins: Bins) -> BrierDecomposition:
    """See `CalibrationSketch.brier_decomposition`."""
    n = bins.counts.to(bins.confidences.dtype)
    total, accuracy = n.sum(), bins.hits.sum() / n.sum()
    share = torch.where(n > 0, n / total, torch.where(total > 0, 0.0, torch.nan))
    confidence, hit = (torch.where(n > 0, sums / n, 0.0) for sums in (bins.confidences, bins.hits))
    return BrierDecomposition(
        brier=bins.squared_gaps.sum() / total,
        reliability=(share * (confidence - hit).square()).sum(),
        resolution=(share * (hit - accuracy).square()).sum(),
        uncertainty=accuracy * (1 - accuracy),
        within_bin_variance=(bins.squares - bins.confidences * confidence).clamp(min=0).sum() / total,
        within_bin_covariance=2 * (bins.hit_confidences - bins.confidences * hit).sum() / total,
    )
