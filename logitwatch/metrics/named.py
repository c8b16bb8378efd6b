"""The metrics with a name. Each takes logits and targets, so that all fit one `torchmetrics.MetricCollection`."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from logitwatch.functional.numerics import upcast
from logitwatch.functional.positive_rows import positive_rows
from logitwatch.functional.uncertainty import softmax_entropy
from logitwatch.metrics.adapter import StateMetric
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.extrema import Extrema
from logitwatch.states.moments import Moments
from logitwatch.states.temperature_grid import TemperatureGrid

__all__ = ["CalibrationError", "LogitRange", "OptimalTemperature", "PredictiveEntropy", "SmoothCalibrationError"]


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
    """Expected calibration error, from logits in constant memory. See `CalibrationSketch.ece`.

    Of the top label, or with ``mode="positive"`` of the probability of yes for one logit per question (binary or
    multi-label; logits and targets of one shape), see `positive_rows`.

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
        mode: Literal["top_label", "positive"] = "top_label",
        **kwargs: Any,
    ) -> None:
        """Choose the bins, the norm over them, the target index of rows to leave out, and what is calibrated."""
        if mode not in ("top_label", "positive"):
            raise ValueError(f'mode must be "top_label" or "positive", got {mode!r}')
        read_out = partial(CalibrationSketch.ece, num_bins=num_bins, norm=norm)
        read_out(CalibrationSketch.empty())  # a wrong option fails here, not after an epoch
        of = partial(_sketch if mode == "top_label" else _positive_sketch, ignore_index=ignore_index)
        super().__init__(CalibrationSketch, read_out, of=of, **kwargs)


class SmoothCalibrationError(StateMetric):
    """SmoothECE of the top label, from logits in constant memory. See `CalibrationSketch.smooth_ece`.

    Examples:
        >>> metric = SmoothCalibrationError()
        >>> metric.update(torch.tensor([[2.0, 0.0]]).expand(8, 2), torch.tensor([0, 0, 0, 0, 0, 0, 0, 1]))
        >>> 0 < metric.compute().item() < 0.01  # sure by 0.881, right in 0.875
        True
    """

    higher_is_better = False

    def __init__(self, ignore_index: int = -100, **kwargs: Any) -> None:
        """Choose the target index of rows to leave out."""
        of = partial(_sketch, ignore_index=ignore_index)
        super().__init__(CalibrationSketch, CalibrationSketch.smooth_ece, of=of, **kwargs)


class OptimalTemperature(StateMetric):
    """Temperature that calibrates the logits best, in constant memory; NaN where there is none. See `TemperatureGrid`.

    ``metric.state.verdict()`` says why there is none, and ``metric.state.nll_at_optimum()`` what it would save.

    Examples:
        >>> metric = OptimalTemperature()
        >>> metric.update(torch.tensor([[2.0, 0.0]]).expand(40, 2), torch.tensor([0, 0, 0, 1]).repeat(10))
        >>> round(metric.compute().item(), 5)  # 2 / log 3
        1.82048
    """

    def __init__(self, ignore_index: int = -100, span: tuple[float, float] | None = None, **kwargs: Any) -> None:
        """Choose the target index of rows to leave out, and the temperatures to look at, as in `TemperatureGrid.of`."""
        of = partial(_grid, ignore_index=ignore_index, span=span)
        of(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))  # a wrong option fails here
        super().__init__(TemperatureGrid, TemperatureGrid.temperature, of=of, **kwargs)


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


def _positive_sketch(preds: Tensor, target: Tensor, *, ignore_index: int) -> CalibrationSketch:
    return CalibrationSketch.of_rows(*positive_rows(preds, target, ignore_index=ignore_index))


def _grid(preds: Tensor, target: Tensor, *, ignore_index: int, span: tuple[float, float] | None) -> TemperatureGrid:
    return TemperatureGrid.of(preds, target, ignore_index=ignore_index, span=span)
