import inspect
import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.readings import Alert, Curve, Scalars, Table
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.position_calibration import PositionCalibration
from logitwatch.states.temperature_grid import TemperatureGrid

CPU = torch.device("cpu")
VAL = Tags("val")


def batch(rows=200, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, classes, generator=generator), torch.randint(classes, (rows,), generator=generator)


def scaled(by, rows=2000, seed=0):
    """Logits whose best temperature is about ``by``."""
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(rows, 5, generator=generator)
    return by * z, z.softmax(-1).multinomial(1, generator=generator).squeeze(1)


def state_of(monitor, observation, *, rows=None):
    sample = observation if rows is None else observation.sample(rows)
    return monitor.summary(observation, sample, None, histograms=False)


def test_it_logs_what_its_docstring_lists():
    monitor = CalibrationMonitor()
    monitor.readings(state_of(monitor, Observation.of(*batch(), stage="train")), Tags("train"), 6)
    scalars, curve, *alerts = monitor.readings(state_of(monitor, Observation.of(*scaled(3.0), stage="val")), VAL, 7)
    assert isinstance(scalars, Scalars)
    assert isinstance(curve, Curve)
    documented = inspect.getdoc(CalibrationMonitor)
    names = [tag.split("/")[-1] for tag in (*scalars.values, curve.tag)] + [alert.rule for alert in alerts]
    assert all(f"``{name}``" in documented for name in names), names
    assert {"refinement", "temperature", "train_gap", "miscalibration"} <= set(names)
    assert all(tag.startswith("calibration/val/") for tag in scalars.values)
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
    assert (int(state.sketch.ignored), int(state.sketch.nonfinite), int(state.sketch.bad_target)) == (1, 1, 1)


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
    assert state.merge(state).sketch.count.device.type == "meta"


def values_of(state, stage="val", monitor=None):
    readings = (monitor or CalibrationMonitor()).readings(state, Tags(stage), 7)
    return {tag.removeprefix(f"calibration/{stage}/"): value for tag, value in readings[0].values.items()}


def test_after_a_validation_every_read_out_is_that_of_the_states():
    z, y = scaled(2.5)
    values = values_of(state_of(CalibrationMonitor(), Observation.of(z, y, stage="val")))
    sketch, temperatures = CalibrationSketch.of(z, y), TemperatureGrid.of(z, y)
    for name in ("adaptive_ece", "debiased_ece"):
        assert values[name] == getattr(sketch, name)(15).item()
    for name in ("smooth_ece", "ks_error", "aurc"):
        assert values[name] == getattr(sketch, name)().item()
    assert values["temperature"] == temperatures.temperature().item() == pytest.approx(2.5, rel=0.1)
    # float32 sums of the same rows in another order
    assert values["refinement"] == pytest.approx(temperatures.nll_at_optimum().item(), rel=1e-6)
    assert values["gap"] == (sketch.mean_confidence() - sketch.accuracy()).item() > 0.1


def test_what_takes_milliseconds_is_left_to_validations():
    state = state_of(CalibrationMonitor(), Observation.of(*scaled(2.5), stage="train"))
    assert state.temperatures.count == 0
    assert not {"smooth_ece", "temperature", "refinement"} & values_of(state, "train").keys()


def test_a_wide_validation_tries_temperatures_on_some_of_its_rows():
    z, y = torch.zeros(64, 2**15), torch.arange(64)
    z[torch.arange(64), (y + y % 2)] = 9.0
    state = state_of(CalibrationMonitor(), Observation.of(z, y, stage="val"))
    assert state.temperatures.count == 8
    assert state.sketch.count == 64
    values = values_of(state)
    assert 0 < values["refinement"] < values["nll"]


def test_once_a_temperature_is_known_those_near_it_are_tried_on_more_rows():
    monitor = CalibrationMonitor()
    z, y = scaled(2.5, rows=20_000)
    seen = Observation.of(z, y, stage="val")
    first = state_of(monitor, seen)
    assert first.temperatures.count == 2**14 // 5
    temperature = values_of(first, monitor=monitor)["temperature"]
    second = state_of(monitor, seen)
    assert second.temperatures.count == 2**16 // 5
    assert values_of(second, monitor=monitor)["temperature"] == pytest.approx(temperature, rel=0.1)
    # Logits that want another temperature by far find none near, and all are tried the next time.
    far = Observation.of(50 * z, y, stage="val")
    assert "temperature" not in values_of(state_of(monitor, far), monitor=monitor)
    assert values_of(state_of(monitor, far), monitor=monitor)["temperature"] == pytest.approx(50 * temperature, rel=0.1)


def test_refinement_is_of_every_row_where_temperatures_are_of_some():
    z, y = scaled(2.5)
    whole = CalibrationMonitor().summary(*[Observation.of(z, y, stage="val")] * 2, None, histograms=False)
    some = replace(whole, temperatures=TemperatureGrid.of(z[:1000], y[:1000]))
    assert some.refinement() == pytest.approx(whole.refinement(), rel=0.02)  # the same rows but for what is saved
    assert some.refinement() - whole.refinement() != 0


@pytest.mark.parametrize("targets", ["separable", "random", "of an absent class"])
def test_where_there_is_no_best_temperature_none_is_logged_and_refinement_is(targets):
    z, y = scaled(1.0)
    y = {"separable": z.argmax(-1), "random": torch.arange(2000) % 5, "of an absent class": y}[targets]
    if targets == "of an absent class":
        z[0, y[0]] = -math.inf
    values = values_of(state_of(CalibrationMonitor(), Observation.of(z, y, stage="val")))
    assert "temperature" not in values
    assert values["refinement"] <= values["nll"]


def test_sequences_are_read_by_position_too_and_other_rows_are_not():
    generator = torch.Generator().manual_seed(0)
    z, y = 3 * torch.randn(4, 6, 5, generator=generator), torch.randint(5, (4, 6), generator=generator)
    y[:, 5] = -100
    monitor = CalibrationMonitor()
    readings = monitor.readings(state_of(monitor, Observation.of(z, y, stage="val")), VAL, 7)
    (table,) = [reading for reading in readings if isinstance(reading, Table)]
    assert table.tag == "calibration/val/positions"
    assert [line[:2] for line in table.rows] == [(0, 4), (1, 4), (2, 8), (4, 4)]
    expected = PositionCalibration.of(z, y)
    assert [line[5] for line in table.rows] == expected.ece()[:4].tolist()
    for other in (Observation.of(z, y, stage="train"), Observation.of(z.flatten(0, 1), y.flatten(), stage="val")):
        readings = monitor.readings(state_of(monitor, other), VAL, 7)
        assert not [reading for reading in readings if isinstance(reading, Table)]


def test_yes_or_no_logits_have_a_temperature():
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(2000, generator=generator)
    y = torch.bernoulli(z.sigmoid(), generator=generator)
    values = values_of(state_of(CalibrationMonitor(), Observation.of(3 * z, y, binary=True, stage="val")))
    assert values["temperature"] == pytest.approx(3, rel=0.1)
    assert values["refinement"] == pytest.approx(F.binary_cross_entropy_with_logits(z, y).item(), rel=0.01)


def test_the_gap_is_compared_with_that_of_the_training_rows():
    monitor = CalibrationMonitor()
    train = state_of(monitor, Observation.of(*scaled(1.0), stage="train"))
    val = state_of(monitor, Observation.of(*scaled(2.5), stage="val"))
    assert "train_gap" not in values_of(val, monitor=monitor)
    before = values_of(train, "train", monitor)["gap"]
    values = values_of(val, monitor=monitor)
    assert values["train_gap"] == pytest.approx(values["gap"] - before)


def rules(monitor, state, stage="val"):
    return [reading.rule for reading in monitor.readings(state, Tags(stage), 7) if isinstance(reading, Alert)]


def test_an_over_confident_validation_raises_the_alert_and_a_calibrated_one_or_a_test_does_not():
    monitor = CalibrationMonitor()
    sure = state_of(monitor, Observation.of(*scaled(2.5), stage="val"))
    right = state_of(monitor, Observation.of(*scaled(1.0), stage="val"))
    assert [rules(monitor, state) for state in (right, sure, right)] == [[], ["miscalibration"], []]
    assert rules(CalibrationMonitor(), sure, "test") == []
    assert rules(CalibrationMonitor(alpha=1e-300), sure) == []


def test_what_it_remembers_is_plain_and_goes_on_in_another():
    sure = Observation.of(*scaled(2.5), stage="val")
    one, other = CalibrationMonitor(), CalibrationMonitor()
    assert rules(one, state_of(one, sure)) == ["miscalibration"]
    other.recall(json.loads(json.dumps(one.memory())))
    assert rules(other, state_of(other, sure)) == []


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1])
def test_an_alpha_that_is_no_probability_is_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\), got"):
        CalibrationMonitor(alpha=alpha)
