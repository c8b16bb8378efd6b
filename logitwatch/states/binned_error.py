"""Calibration errors of rows in bins: what is seen, what chance alone would show, and what is left of it."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from logitwatch.states.confidence_cells import Bins

__all__ = [
    "WILSON_Z",
    "Interval",
    "calibration_error",
    "debiased_l1_error",
    "debiased_squared_error",
    "error_interval",
    "null_error",
    "signed_error",
]

WILSON_Z = 1.959963984540054  # a standard normal is within this of 0 with probability 0.95
# Above this variance the normal limit of a binomial's mean absolute deviation is the more accurate of the two.
NORMAL_VARIANCE = 1e6


class Interval(NamedTuple):
    """Two limits, each float64."""

    lower: Tensor
    upper: Tensor


def calibration_error(bins: Bins, norm: Literal["l1", "l2", "max"]) -> Tensor:
    """Distance of accuracy and confidence; see `CalibrationSketch.ece`."""
    gap = torch.where(bins.counts > 0, bins.gaps / bins.counts, 0.0).abs()
    match norm:
        case "l1":
            return bins.gaps.abs().sum() / bins.counts.sum()
        case "l2":
            return ((bins.counts * gap.square()).sum() / bins.counts.sum()).sqrt()
        case "max":
            return torch.where(bins.counts.sum() > 0, gap.amax(), torch.nan)
        case _:
            raise ValueError(f'norm must be "l1", "l2" or "max", got {norm!r}')


def signed_error(bins: Bins, sign: int) -> Tensor:
    """The part of the ``l1`` error where confidence is above accuracy (``sign`` 1) or below (-1)."""
    return (sign * bins.gaps).clamp(min=0).sum() / bins.counts.sum()


def null_error(bins: Bins) -> Tensor:
    """The ``l1`` error expected of calibrated rows; see `CalibrationSketch.null_ece`."""
    n = bins.counts.to(bins.gaps.dtype)
    return _mean_absolute_deviation(n, bins.confidences / n, bins.null_variances).sum() / n.sum()


def debiased_squared_error(bins: Bins) -> Tensor:
    """Squared gaps less their sampling variance; see `CalibrationSketch.debiased_ece`."""
    n = bins.counts.to(bins.gaps.dtype)
    noise = torch.where(n > 1, _sample_variance(bins), bins.null_variances)
    # n / N times (gap^2 - noise / n), of summed gaps.
    return torch.where(n > 0, bins.gaps.square() / n - noise, 0.0).sum() / n.sum()


def debiased_l1_error(bins: Bins) -> Tensor:
    """The ``l1`` error less what noise adds to each absolute gap; see `CalibrationSketch.debiased_l1`."""
    gap, noise = bins.gaps.abs(), bins.null_variances.sqrt()
    with_noise = math.sqrt(2 / math.pi) * noise * (-(gap / noise).square() / 2).exp()
    with_noise = with_noise + gap * torch.erf(gap / noise / math.sqrt(2))
    return torch.where(noise > 0, 2 * gap - with_noise, gap).sum() / bins.counts.sum()


def error_interval(bins: Bins) -> Interval:
    """Limits of the ``l1`` error of the population; see `CalibrationSketch.ece_interval`."""
    n = bins.counts.to(bins.gaps.dtype)
    total, gaps = n.sum(), torch.where(n > 0, bins.gaps / n, 0.0)
    # A bin of few rows that are all right has no variance to be seen: Agresti and Coull's pseudo-rows give it some.
    share = (bins.hits + WILSON_Z**2 / 2) / (n + WILSON_Z**2)
    seen = torch.where(n > 1, _sample_variance(bins), 0.0)
    variances = n * torch.maximum(seen, share * (1 - share))
    error = (n * gaps.abs()).sum() / total
    of_shares = ((n * gaps.square()).sum() / total - error.square()).clamp(min=0) / total
    reach = WILSON_Z * (variances.sum() / total.square() + of_shares).sqrt()
    most_bias = math.sqrt(2 / math.pi) * variances.sqrt().sum() / total
    return Interval((error - most_bias - reach).clamp(min=0), (error + reach).clamp(max=1))


def _sample_variance(bins: Bins) -> Tensor:
    """Unbiased variance of confidence less hit within each bin; meaningless for fewer than two rows."""
    n = bins.counts.to(bins.gaps.dtype)
    return ((bins.squared_gaps - bins.gaps.square() / n) / (n - 1)).clamp(min=0)


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
