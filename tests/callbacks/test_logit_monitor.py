import inspect
import math

import pytest
import torch

from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.glossary import QUANTITIES
from logitwatch.sinks.readings import Histogram, Scalars

CPU = torch.device("cpu")


def batch(rows=50, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, classes, generator=generator), torch.randint(classes, (rows,), generator=generator)


def state_of(monitor, observation, *, rows=None, terms=None, histograms=True):
    sample = observation if rows is None else observation.sample(rows)
    return monitor.summary(observation, sample, terms, histograms=histograms)


def scalars(monitor, state, tags=None):
    (reading, *_) = monitor.readings(state, tags or Tags("val"), 7)
    assert isinstance(reading, Scalars)
    assert reading.step == 7
    return reading.values


def test_it_logs_what_its_docstring_lists():
    monitor = LogitMonitor()
    readings = monitor.readings(state_of(monitor, Observation.of(*batch())), Tags("val"), 7)
    logged = {*readings[0].values, *(reading.tag for reading in readings[1:])}
    documented = inspect.getdoc(LogitMonitor)
    for tag in logged:
        assert f"``{tag.split('/')[-1]}``" in documented, tag
    assert logged == {f"logits/val/{name.split('/')[1]}" for name in QUANTITIES if name.startswith("logits/")}
    assert all(isinstance(value, float) for value in readings[0].values.values())


def test_range_and_counts_are_of_every_row_and_the_rest_of_the_sample():
    z, y = batch()
    z[7, 2], z[8, 3], z[9, 0], y[10], y[11] = 1000.0, -1000.0, math.nan, -100, 5
    monitor, seen = LogitMonitor(), Observation.of(z, y)
    values = scalars(monitor, state_of(monitor, seen, rows=4))
    assert (values["logits/val/max"], values["logits/val/min"]) == (1000.0, -1000.0)
    counts = [values[f"logits/val/{name}"] for name in ("rows", "nonfinite", "ignored", "bad_target")]
    assert counts == [50, 1, 1, 1]
    sample = seen.sample(4)
    counted = sample.statistics.finite & sample.valid & ~sample.bad_target
    assert values["logits/val/entropy"] == pytest.approx(sample.entropy[counted].double().mean().item())


def test_histograms_are_there_only_where_they_were_taken():
    monitor, seen = LogitMonitor(), Observation.of(*batch())
    with_histograms = monitor.readings(state_of(monitor, seen), Tags("train"), 1)
    without = monitor.readings(state_of(monitor, seen, histograms=False), Tags("train"), 1)
    assert [reading.tag.split("/")[-1] for reading in with_histograms[1:] if isinstance(reading, Histogram)] == [
        "histogram",
        "margin_histogram",
        "confidence_histogram",
        "entropy_histogram",
    ]
    assert not [reading for reading in without if isinstance(reading, Histogram)]
    assert without[0].values == with_histograms[0].values
    assert sum(with_histograms[1].counts) == 250
    assert all(reading.unit and reading.meaning for reading in with_histograms[1:])


def test_without_targets_nothing_is_said_of_them():
    monitor = LogitMonitor()
    values = scalars(monitor, state_of(monitor, Observation.of(batch()[0])))
    assert not {"logits/val/nll", "logits/val/accuracy", "logits/val/overconfidence"} & set(values)
    assert values["logits/val/rows"] == 50


def test_rows_without_a_number_leave_counts_alone():
    monitor = LogitMonitor()
    state = state_of(monitor, Observation.of(torch.full((4, 3), math.nan), torch.zeros(4, dtype=torch.long)))
    readings = monitor.readings(state, Tags("val"), 7)
    assert len(readings) == 1
    assert readings[0].values == {
        "logits/val/nonfinite": 4.0,
        "logits/val/ignored": 0.0,
        "logits/val/bad_target": 0.0,
        "logits/val/rows": 4.0,
    }


def test_terms_keep_their_names_in_the_order_they_came():
    monitor, seen = LogitMonitor(), Observation.of(*batch())
    one = state_of(monitor, seen, terms={"ce": torch.tensor(2.0), "z": torch.tensor(0.5)})
    two = state_of(monitor, seen, terms={"z": torch.tensor(1.5), "late": torch.tensor(9.0)})
    values = scalars(monitor, one.merge(two), Tags("train"))
    assert {tag: value for tag, value in values.items() if tag.startswith("losses/")} == {
        "losses/train/ce": 2.0,
        "losses/train/z": 1.0,
        "losses/train/late": 9.0,
    }


def test_nothing_seen_is_no_row():
    monitor = LogitMonitor()
    assert monitor.rows_in(monitor.empty(CPU)) == 0
    assert monitor.rows_in(state_of(monitor, Observation.of(*batch()), rows=3)) == 50


def test_ties_are_saturation():
    monitor = LogitMonitor()
    z = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    assert scalars(monitor, state_of(monitor, Observation.of(z)))["logits/val/saturation"] == 0.5


def test_no_value_is_looked_at_before_the_report():
    # A tensor on the meta device has no values, so to look at one raises where an accelerator would wait.
    z, y = (t.to("meta") for t in batch())
    seen = Observation.of(z, y, generator=None)
    monitor = LogitMonitor()
    state = monitor.summary(seen, seen, None, histograms=True)
    assert state.merge(state).seen.device.type == "meta"
