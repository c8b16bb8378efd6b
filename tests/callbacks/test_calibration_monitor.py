import inspect
import math

import pytest
import torch

from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.readings import Curve, Scalars
from logitwatch.states.calibration_sketch import CalibrationSketch

CPU = torch.device("cpu")


def batch(rows=200, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, classes, generator=generator), torch.randint(classes, (rows,), generator=generator)


def state_of(monitor, observation, *, rows=None):
    sample = observation if rows is None else observation.sample(rows)
    return monitor.summary(observation, sample, None, histograms=False)


def test_it_logs_what_its_docstring_lists():
    monitor = CalibrationMonitor()
    scalars, curve = monitor.readings(state_of(monitor, Observation.of(*batch())), Tags("val"), 7)
    assert isinstance(scalars, Scalars)
    assert isinstance(curve, Curve)
    documented = inspect.getdoc(CalibrationMonitor)
    for tag in (*scalars.values, curve.tag):
        assert tag.startswith("calibration/val/")
        assert f"``{tag.split('/')[-1]}``" in documented, tag
    assert {scalars.step, curve.step} == {7}


def test_the_numbers_are_those_of_the_sketch():
    z, y = batch()
    y[3], z[4, 0], y[5] = -100, math.nan, 5
    monitor, sketch = CalibrationMonitor(num_bins=10), CalibrationSketch.of(z, y)
    state = state_of(monitor, Observation.of(z, y))
    values = monitor.readings(state, Tags("test"), 7)[0].values
    assert values["calibration/test/ece"] == sketch.ece(10).item()
    assert values["calibration/test/null_ece"] == sketch.null_ece(10).item()
    for name in ("brier_score", "nll", "accuracy"):
        assert values[f"calibration/test/{name}"] == getattr(sketch, name)().item()
    assert values["calibration/test/confidence"] == sketch.mean_confidence().item()
    assert monitor.rows_in(state) == 197
    assert (int(state.ignored), int(state.nonfinite), int(state.bad_target)) == (1, 1, 1)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_the_curve_has_a_point_a_bin_with_its_weight_and_interval(num_bins):
    monitor = CalibrationMonitor(num_bins=num_bins)
    curve = monitor.readings(state_of(monitor, Observation.of(*batch())), Tags("val"), 7)[1]
    assert len(curve.x) == len(curve.y) == len(curve.weights) == num_bins
    assert sum(curve.weights) == 200
    kept = [i for i, weight in enumerate(curve.weights) if weight]
    assert all(curve.lower[i] <= curve.y[i] <= curve.upper[i] for i in kept)
    assert [curve.reference[i] for i in kept] == [curve.x[i] for i in kept]


def test_it_counts_the_sample_and_no_more():
    monitor = CalibrationMonitor()
    assert monitor.rows_in(state_of(monitor, Observation.of(*batch()), rows=30)) == 30


@pytest.mark.parametrize(
    "observation",
    [Observation.of(batch()[0]), Observation.of(torch.zeros(4, 1), torch.zeros(4, dtype=torch.long))],
    ids=["no targets", "one class"],
)
def test_it_has_nothing_to_say_without_targets_or_a_second_class(observation):
    assert state_of(CalibrationMonitor(), observation) is None


def test_yes_or_no_logits_are_two_classes():
    monitor = CalibrationMonitor()
    z = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    state = state_of(monitor, Observation.of(z, torch.tensor([[1.0, 1.0], [0.0, 1.0]]), binary=True))
    assert monitor.rows_in(state) == 4
    assert monitor.readings(state, Tags("val"), 0)[0].values["calibration/val/accuracy"] == 0.5


def test_a_number_of_bins_below_one_is_refused():
    with pytest.raises(ValueError, match="num_bins must be >= 1, got 0"):
        CalibrationMonitor(num_bins=0)


def test_no_value_is_looked_at_before_the_report():
    # A tensor on the meta device has no values, so to look at one raises where an accelerator would wait.
    z, y = (t.to("meta") for t in batch())
    state = state_of(CalibrationMonitor(), Observation.of(z, y))
    assert state.merge(state).count.device.type == "meta"
