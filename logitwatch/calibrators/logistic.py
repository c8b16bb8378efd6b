"""Logistic regression in a few numbers, the fit behind the sigmoid maps: Newton's method, in float64."""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logitwatch.calibrators.inputs import CalibrationRows, CalibrationWarning
from logitwatch.calibrators.one_vs_rest import class_rows

__all__ = ["LogisticOptimum", "class_coefficients", "logistic_optimum", "smoothed_targets"]

ITERATIONS = 100
# Largest entry of the gradient of the mean NLL, for features of unit size.
FLAT = 1e-11


class LogisticOptimum(NamedTuple):
    """Coefficients ``[features]``, the mean NLL they reach, and whether they are an optimum."""

    coefficients: Tensor
    nll: float
    found: bool


def class_coefficients(
    rows: CalibrationRows,
    fit_class: Callable[[Tensor, Tensor, Tensor], LogisticOptimum],
    unchanged: tuple[float, ...],
    *,
    smoothing: bool,
    what: str,
) -> Tensor:
    """Coefficients ``[classes, coefficients]`` of the sigmoid map of each class.

    Args:
        rows: Rows to fit.
        fit_class: From scores, `smoothed_targets` and weights ``[rows]`` of a class to its coefficients.
        unchanged: Coefficients for a class of which the rows say nothing: it is left as it is.
        smoothing: See `smoothed_targets`.
        what: Who asks, for the `CalibrationWarning` about classes whose optimum is at infinity.
    """
    coefficients, lost = [], []
    for k, one in enumerate(class_rows(rows)):
        if not len(one.scores):
            coefficients.append(rows.weights.new_tensor(unchanged))
            continue
        best = fit_class(one.scores, smoothed_targets(one.yes, one.weights, smoothing=smoothing), one.weights)
        coefficients.append(best.coefficients)
        if not best.found:
            lost.append(k)
    if lost:
        warnings.warn(
            f"{what} has no finite optimum for {len(lost)} of {len(coefficients)} classes, among them class {lost[0]}: "
            "its log-odds separate it from the rest, or it has no rows; smoothing=True bounds it",
            CalibrationWarning,
            4,
        )
    return torch.stack(coefficients)


def logistic_optimum(features: Tensor, targets: Tensor, weights: Tensor) -> LogisticOptimum:
    r"""Coefficients :math:`c` of smallest mean NLL of :math:`\sigma(x \cdot c)`.

    Args:
        features: ``[rows, features]``, the constant among them; float64.
        targets: Probabilities of yes, ``[rows]``.
        weights: ``[rows]``, positive.

    Returns:
        The optimum. Where it is at infinity, which hard targets allow, the point at which the search stopped, with
        ``found`` False: every row then is on its own side.

    Examples:
        >>> ones = torch.ones(4, 1, dtype=torch.float64)
        >>> best = logistic_optimum(ones, ones.new_tensor([1, 1, 1, 0]), ones.squeeze(1))
        >>> best.coefficients.sigmoid(), best.found
        (tensor([0.7500], dtype=torch.float64), True)
    """
    weights = weights / weights.sum()
    size = (weights @ features.square()).sqrt()
    size = torch.where(size > 0, size, 1.0)
    x, c = features / size, torch.zeros_like(size)
    loss, flat = _nll(x @ c, targets, weights), False
    for _ in range(ITERATIONS):
        p = (x @ c).sigmoid()
        gradient = x.T @ (weights * (p - targets))
        flat = gradient.abs().max().item() < FLAT
        if flat:
            break
        curvature = (x.T * (weights * p * (1 - p))) @ x
        # Two features may be one and the same; the least of ridges then shares between them.
        curvature.diagonal().add_(1e-13 * curvature.trace() + 1e-300)
        step = torch.linalg.solve(curvature, gradient)
        c, loss, moved = _descended(x, targets, weights, c, loss, step)
        if not moved:
            flat = True  # no step is small enough to do better: this is the optimum to rounding
            break
    own_side = bool((F.softplus((1 - 2 * targets) * (x @ c)) < math.log(2)).all()) and bool((targets % 1 == 0).all())
    return LogisticOptimum(c / size, loss, flat and not own_side)


def smoothed_targets(yes: Tensor, weights: Tensor, *, smoothing: bool = True) -> Tensor:
    r"""Platt's targets: as if one more row of each kind had been seen.

    .. math:: t_+ = \frac{N_+ + 1}{N_+ + 2}, \qquad t_- = \frac{1}{N_- + 2}

    Args:
        yes: bool ``[rows]``.
        weights: ``[rows]``; their sums are :math:`N_+` and :math:`N_-`.
        smoothing: False for 1 and 0.

    Examples:
        >>> smoothed_targets(torch.tensor([True, False, False]), torch.ones(3, dtype=torch.float64))
        tensor([0.6667, 0.2500, 0.2500], dtype=torch.float64)
    """
    if not smoothing:
        return yes.to(weights)
    positive = (weights * yes).sum()
    negative = weights.sum() - positive
    return torch.where(yes, (positive + 1) / (positive + 2), 1 / (negative + 2))


def _nll(logits: Tensor, targets: Tensor, weights: Tensor) -> float:
    return (weights @ (F.softplus(logits) - targets * logits)).item()


def _descended(
    x: Tensor, targets: Tensor, weights: Tensor, c: Tensor, loss: float, step: Tensor
) -> tuple[Tensor, float, bool]:
    """The first of a step, half of it, a quarter, that lowers the loss; or the same point."""
    for halvings in range(30):
        following = c - step / 2**halvings
        lower = _nll(x @ following, targets, weights)
        if lower < loss:
            return following, lower, True
    return c, loss, False
