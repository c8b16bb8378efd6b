import math

import pytest
import torch

from logitwatch.sinks.glossary import describe
from logitwatch.sinks.state_readings import BUCKETS, histogram_reading, reliability_reading
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.logit_histogram import LogitHistogram

VALUES = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 4 + 1


def test_the_buckets_hold_every_finite_value_once():
    values = torch.cat((VALUES, torch.tensor([math.nan, math.inf, -math.inf])))
    reading = histogram_reading("logits/val/histogram", LogitHistogram.of(values), 7)
    assert sum(reading.counts) == len(VALUES)
    assert reading.nonfinite == 3
    assert len(reading.counts) + 1 == len(reading.edges) <= BUCKETS + 1
    pairs = zip(reading.edges[:-1], reading.edges[1:], strict=True)
    inside = [int(((low <= VALUES) & (high > VALUES)).sum()) for low, high in pairs]
    # a value on an edge counts away from zero, and no value of this sample lies on one
    assert inside == reading.counts
    assert reading.total == pytest.approx(VALUES.double().sum().item())
    assert reading.squares == pytest.approx(VALUES.double().square().sum().item())
    assert (reading.step, reading.unit) == (7, "logit")


def test_nothing_finite_is_no_histogram():
    assert histogram_reading("logits/val/histogram", LogitHistogram.of(torch.tensor([math.nan])), 0) is None


def test_the_curve_is_that_of_the_sketch_beside_the_diagonal():
    logits = VALUES.reshape(-1, 5)
    sketch = CalibrationSketch.of(logits, logits.roll(1, 0).argmax(-1))
    reading = reliability_reading("calibration/val/reliability", sketch, 3, num_bins=10)
    expected = sketch.reliability_curve(10)
    assert reading.weights == expected.counts.tolist()
    assert [y for y, w in zip(reading.y, reading.weights, strict=True) if w] == [
        y for y, w in zip(expected.accuracy.tolist(), expected.counts.tolist(), strict=True) if w
    ]
    assert [(x, r) for x, r in zip(reading.x, reading.reference, strict=True) if x != r and not math.isnan(x)] == []
    assert (reading.x_label, reading.y_label) == ("confidence", "accuracy")
    assert reading.meaning == describe("calibration/val/reliability").meaning
