import inspect
import json

import pytest
import torch
from helpers.models import namespace

from logitwatch.callbacks.stability_guard import StabilityGuard
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.glossary import QUANTITIES
from logitwatch.sinks.readings import Alert, Scalars
from logitwatch.testing import check_monitor

L = namespace("pytorch_lightning")
Z = torch.tensor([[6.0, 0.0, 1.0], [0.0, 3.0, 3.0], [float("inf"), 0.0, 0.0], [-9.0, 1.0, 0.0]])
Y = torch.tensor([0, 2, 1, -100])


def readings(guard, z=Z, y=Y, *, stage="train", step=7, rows=None):
    observation = Observation.of(z, y, stage=stage, step=step)
    sample = observation if rows is None else observation.sample(rows)
    state = guard.summary(observation, sample, None, histograms=False)
    return guard.readings(state, Tags(stage), step)


def test_the_scalars_are_those_of_the_rows_and_explained():
    guard = StabilityGuard()
    (scalars,) = (r.values for r in readings(guard) if isinstance(r, Scalars))
    assert {name: scalars[f"stability/train/{name}"] for name in ("absmax", "near_ties", "top_class")} == {
        "absmax": 9.0,
        "near_ties": 0.5,
        "top_class": 0.5,
    }
    assert scalars["stability/train/range_used"] == 9.0 / torch.finfo(torch.float32).max
    assert {"stability/" + tag.rpartition("/")[2] for tag in scalars} <= set(QUANTITIES)


def test_range_and_rows_that_are_not_finite_are_of_every_row():
    guard = StabilityGuard()
    z, y = Z.repeat(20, 1), Y.repeat(20)
    alerts = [r for r in readings(guard, z, y, rows=1) if isinstance(r, Alert)]
    assert [(alert.rule, alert.values["rows"], alert.values["first_step"]) for alert in alerts] == [
        ("nonfinite", 20, 7)
    ]


def test_logits_without_a_finite_row_have_an_alert_and_no_range():
    guard = StabilityGuard()
    said = readings(guard, torch.full((4, 3), float("nan")), Y)
    assert said[0].values == {}
    assert [alert.rule for alert in said[1:]] == ["nonfinite"]


def test_yes_or_no_logits_and_soft_targets_have_no_classes():
    guard = StabilityGuard()
    observation = Observation.of(Z[:2, 0], torch.tensor([1.0, 0.0]), binary=True, stage="train", step=1)
    state = guard.summary(observation, observation, None, histograms=False)
    assert "stability/train/top_class" not in guard.readings(state, Tags("train"), 1)[0].values
    assert "stability/train/top_class" not in readings(guard, Z[:2], Z[:2].softmax(-1))[0].values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_nonfinite": "halt"}, "on_nonfinite must be warn, stop, raise, checkpoint, skip_step or the import path"),
        ({"on_explosion": "skip_step"}, "on_explosion must be warn, stop, raise, checkpoint or the import path"),
        ({"false_alarms": 0.0}, r"false_alarms must be in \(0, 1\), got 0.0"),
        ({"budget": 2.0}, r"budget must be in \(0, 1\), got 2.0"),
    ],
)
def test_a_wrong_option_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        StabilityGuard(**options)


def test_every_option_is_a_keyword_that_json_can_say():
    parameters = inspect.signature(StabilityGuard).parameters.values()
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY and p.annotation is not p.empty for p in parameters)
    assert json.loads(json.dumps([p.default for p in parameters])) == [p.default for p in parameters]


def test_hooks_of_a_batch_are_there_for_who_asked_alone():
    hooks = ("on_before_optimizer_step", "on_train_batch_end", "on_validation_end", "on_test_end")

    def there(**options):
        return [hook for hook in hooks if getattr(StabilityGuard(**options), hook) is not None]

    assert there() == there(on_spike="stop") == []
    assert there(on_nonfinite="skip_step") == ["on_before_optimizer_step"]
    assert there(on_spike="raise") == list(hooks[1:])


def test_it_remembers_what_it_was_amid():
    one, other = StabilityGuard(), StabilityGuard()
    readings(one)
    other.recall(one.memory())
    assert other.memory() == one.memory()
    assert [r for r in readings(other, step=9) if isinstance(r, Alert)] == []


@pytest.mark.parametrize("options", [{}, {"on_nonfinite": "skip_step", "on_spike": "checkpoint"}], ids=["warn", "acts"])
def test_it_passes_the_checks_of_every_monitor(options):
    check_monitor(lambda: StabilityGuard(every_n_steps=1, **options))
