"""States as readings, with the unit and the meaning their tag has."""

from __future__ import annotations

from logitwatch.sinks.glossary import describe
from logitwatch.sinks.readings import Curve, Histogram
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.logit_histogram import LogitHistogram

__all__ = ["histogram_reading", "reliability_reading"]

BUCKETS = 30  # what TensorBoard's page redraws to; more would be bytes for nothing


def histogram_reading(tag: str, histogram: LogitHistogram, step: int) -> Histogram | None:
    """A histogram in a few exact buckets; None where nothing finite was seen.

    Examples:
        >>> import torch
        >>> seen = LogitHistogram.of(torch.tensor([1.0, 1.0, float("inf")]))
        >>> reading = histogram_reading("logits/val/histogram", seen, 3)
        >>> reading.counts, reading.nonfinite, reading.unit
        ([2], 1, 'logit')
    """
    counts, edges = histogram.buckets(BUCKETS)
    if not counts:
        return None
    unit, meaning = describe(tag)
    return Histogram(
        tag=tag,
        step=step,
        counts=counts,
        edges=edges,
        minimum=edges[0],
        maximum=edges[-1],
        total=histogram.total.item(),
        squares=histogram.squares.item(),
        nonfinite=int(histogram.nan + histogram.positive_infinite + histogram.negative_infinite),
        unit=unit,
        meaning=meaning,
    )


def reliability_reading(tag: str, sketch: CalibrationSketch, step: int, *, num_bins: int = 15) -> Curve:
    """Accuracy against confidence, with the diagonal to compare.

    Examples:
        >>> import torch
        >>> sketch = CalibrationSketch.of(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]))
        >>> curve = reliability_reading("calibration/val/reliability", sketch, 3, num_bins=2)
        >>> curve.weights, curve.y[1]
        ([0, 2], 0.5)
    """
    curve = sketch.reliability_curve(num_bins)
    unit, meaning = describe(tag)
    return Curve(
        tag=tag,
        step=step,
        x=curve.confidence.tolist(),
        y=curve.accuracy.tolist(),
        weights=curve.counts.tolist(),
        lower=curve.lower.tolist(),
        upper=curve.upper.tolist(),
        reference=curve.confidence.tolist(),
        x_label="confidence",
        y_label="accuracy",
        unit=unit,
        meaning=meaning,
    )
