"""The metrics with a name. Each takes logits and targets, so that all fit one `torchmetrics.MetricCollection`."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from logitwatch.functional.numerics import upcast
from logitwatch.functional.uncertainty import softmax_entropy
from logitwatch.metrics.adapter import StateMetric
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.extrema import Extrema
from logitwatch.states.moments import Moments

__all__ = ["CalibrationError", "LogitRange", "PredictiveEntropy"]


class LogitRange(StateMetric):
    """Largest logit less the smallest, or one of the two, over everything seen; absent classes (``-inf``) are left out.

    Examples:
        >>> metric = LogitRange()
        >>> metric.update(torch.tensor([[3.0, -1.0, float("-inf")]]))
        >>> metric.compute()
        tensor(4., dtype=torch.float64)
    """

    def __init__(self, quantity: Literal["range", "max", "min"] = "range", **kwargs: Any) -> None:
        """Choose what `compute` returns; NaN before any logit."""
        if quantity not in ("range", "max", "min"):
            raise ValueError(f'quantity must be "range", "max" or "min", got {quantity!r}')
        super().__init__(Extrema, partial(_extremum, quantity=quantity), of=_present_extrema, **kwargs)


class PredictiveEntropy(StateMetric):
    """Mean entropy of the predictions, nats; rows without a distribution (NaN, ``+inf``, no class) are left out.

    Examples:
        >>> metric = PredictiveEntropy()
        >>> metric.update(torch.tensor([[0.0, 0.0], [99.0, 0.0], [float("nan"), 0.0]]))
        >>> round(metric.compute().item(), 6)  # log(2) / 2
        0.346574
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(Moments, _mean, of=_finite_entropy, **kwargs)


class CalibrationError(StateMetric):
    """Expected calibration error of the top label, from logits in constant memory. See `CalibrationSketch.ece`.

    Examples:
        >>> metric = CalibrationError()
        >>> metric.update(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]))
        >>> round(metric.compute().item(), 6)  # |0.880797 - 0.5|
        0.380797
    """

    higher_is_better = False

    def __init__(
        self,
        num_bins: int = 15,
        norm: Literal["l1", "l2", "max"] = "l1",
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        """Choose the bins, the norm over them, and the target index of rows to leave out."""
        read_out = partial(CalibrationSketch.ece, num_bins=num_bins, norm=norm)
        read_out(CalibrationSketch.empty())  # a wrong option fails here, not after an epoch
        super().__init__(CalibrationSketch, read_out, of=partial(_sketch, ignore_index=ignore_index), **kwargs)


def _present_extrema(preds: Tensor, target: Tensor | None = None) -> Extrema:
    z = upcast(preds.detach())
    absent = z == -torch.inf
    return Extrema.of(z.masked_fill(absent, torch.nan), z.masked_fill(absent, torch.inf))


def _extremum(seen: Extrema, *, quantity: str) -> Tensor:
    picked = {"range": seen.maximum - seen.minimum, "max": seen.maximum, "min": seen.minimum}[quantity]
    return torch.where(seen.maximum >= seen.minimum, picked, torch.nan)


def _finite_entropy(preds: Tensor, target: Tensor | None = None) -> Moments:
    entropy = softmax_entropy(preds.detach())
    return Moments.of(entropy, entropy.isfinite())


def _mean(moments: Moments) -> Tensor:
    return moments.mean


def _sketch(preds: Tensor, target: Tensor, *, ignore_index: int) -> CalibrationSketch:
    return CalibrationSketch.of(preds, target, ignore_index=ignore_index)
