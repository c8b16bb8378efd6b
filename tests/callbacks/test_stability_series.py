import math

import pytest
import torch
from helpers.windows import look, window

from logitwatch.callbacks.stability_series import SERIES, StabilitySeries

GENERATOR = torch.Generator().manual_seed(0)
NOISE = (0.1 * torch.randn(512, generator=GENERATOR)).tolist()
# A change that does harm, to the field of a look that each rule reads.
CHANGES = {
    "loss_spike": {"nll": 4.0},
    "log_partition_drift": {"log_partition": -40.0},
    "logit_range": {"absmax": 400.0},
}


def warmed(noise=NOISE, **options):
    series = StabilitySeries(1e-4)
    for start in range(0, len(noise), 16):
        looks = [look(nll=1 + e, log_partition=4 + e, absmax=5 * math.exp(e)) for e in noise[start : start + 16]]
        assert set(series.reported(window(looks=looks), steps=160, **options).values()) == {None}
    return series


def rules(series, **values):
    looks = [look(**values)] * 8
    told = series.reported(window(looks=looks, mean=values), steps=80)
    return {rule: alert for rule, alert in told.items() if alert is not None}


@pytest.mark.parametrize("rule", SERIES)
def test_each_rule_tells_of_its_change_with_value_and_baseline(rule):
    (name, alert), *more = rules(warmed(), **CHANGES[rule]).items()
    assert not more
    assert name == alert.rule == rule
    (value,) = CHANGES[rule].values()
    assert alert.values["value"] == pytest.approx(value)
    healthy = {"loss_spike": 1.0, "log_partition_drift": 4.0, "logit_range": 5.0}[rule]
    assert alert.values["baseline"] == pytest.approx(healthy, rel=0.05)  # of 128 looks with a tenth of noise


def test_what_does_no_harm_is_not_told():
    series = warmed()
    assert rules(series, nll=0.2, log_partition=9.5, absmax=60.0) == {}


def test_a_spike_of_sure_predictions_points_at_the_labels():
    sure, unsure = (rules(warmed(), nll=6.0, entropy=entropy)["loss_spike"].text for entropy in (0.2, 5.5))
    assert "labels" in sure
    assert "labels" not in unsure


def test_a_learning_rate_that_jumps_begins_a_new_phase():
    series = warmed(learning_rate=0.1)
    told = series.reported(window(looks=[look(nll=4.0)] * 8), steps=80, learning_rate=0.2)
    assert set(told.values()) == {None}
    slow = warmed(learning_rate=0.1)
    told = slow.reported(window(looks=[look(nll=4.0)] * 8), steps=80, learning_rate=0.101)
    assert told["loss_spike"] is not None


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.0, 0.1), (0.1, 0.0), (math.nan, 0.1), (0.1, math.nan)], ids=str)
def test_any_learning_rate_is_one(rates):
    series = StabilitySeries(1e-4)
    for rate in rates:
        series.reported(window(), steps=10, learning_rate=rate)
    assert str(series.state_dict()["learning_rate"]) == str(rates[1])


def test_the_budget_is_of_steps_whatever_the_cadence():
    rates = []
    for steps in (8, 800):
        series = StabilitySeries(1e-4)
        series.reported(window(looks=[look()] * 8), steps=steps)
        rates.append(series.state_dict()["rate"])
    assert rates == pytest.approx([1e-4 / 3, 1e-2 / 3])


def test_looks_without_a_quantity_are_passed_over():
    series = warmed()
    assert rules(series, nll=math.nan, absmax=0.0) == {}
    assert series.reported(window(looks=[]), steps=10) == {}


def test_it_goes_on_where_it_was_saved():
    one, other = warmed(), StabilitySeries(1e-4)
    other.load_state_dict(one.state_dict())
    assert other.state_dict() == one.state_dict()
    for _ in range(3):
        assert rules(one, nll=1.6) == rules(other, nll=1.6)
    fresh = StabilitySeries(1e-4)
    fresh.load_state_dict(StabilitySeries(1e-4).state_dict())
    assert fresh.state_dict()["detectors"] == {}
