import pytest

from logitwatch.callbacks.faults import StabilityError
from logitwatch.callbacks.stability_actions import OPTIONS, StabilityActions
from logitwatch.callbacks.stability_rules import RULES
from logitwatch.callbacks.stability_series import SERIES
from logitwatch.sinks.readings import Alert

CALLS = []


def on_alert(trainer, module, alert):
    CALLS.append((trainer, module, alert.rule))


PATH = f"{__name__}.on_alert"


class Trainer:
    def __init__(self, folder):
        self.should_stop, self.log_dir, self.saved = False, folder, []

    def save_checkpoint(self, path):
        self.saved.append(path)


def alert(rule="loss_spike"):
    return Alert(rule=rule, step=7, level="warning", title="A title", text="What to do.")


def test_every_rule_belongs_to_an_option():
    assert set(OPTIONS) == {*RULES, *SERIES, "overconfidence", "overflow_ahead"}


@pytest.mark.parametrize("action", ["skip_step", "halt", "", "a.b c", None, 3, ".x"])
def test_what_is_no_action_is_refused(action):
    with pytest.raises(ValueError, match="on_spike must be warn, stop, raise, checkpoint or the import path"):
        StabilityActions(on_spike=action)


def test_telling_is_all_that_is_done_unasked(tmp_path):
    actions, trainer = StabilityActions(on_spike="warn"), Trainer(tmp_path)
    actions.raised(alert(), trainer)
    actions.act(trainer, None)
    assert not trainer.should_stop
    assert not actions.later
    assert not actions.skips


def test_stop_lets_the_trainer_end_and_says_why(tmp_path, caplog):
    actions, trainer = StabilityActions(on_spike="stop"), Trainer(tmp_path)
    actions.raised(alert(), trainer)
    assert trainer.should_stop
    assert "stopped at step 7: A title" in caplog.text


def test_the_rest_waits_for_the_end_of_the_batch_and_is_done_once(tmp_path):
    CALLS.clear()
    actions = StabilityActions(on_spike="checkpoint", on_drift=PATH, on_collapse="raise")
    trainer = Trainer(str(tmp_path))
    for rule in ("dead_class", "loss_spike", "log_partition_drift", "nonfinite"):
        actions.raised(alert(rule), trainer)
    assert actions.later
    assert (trainer.saved, CALLS) == ([], [])
    with pytest.raises(StabilityError, match=r"step 7: A title\. What to do\."):
        actions.act(trainer, "module")
    assert trainer.saved == [str(tmp_path / "logitwatch" / "loss_spike-step=7.ckpt")]
    assert [(trainer, "module", "log_partition_drift")] == CALLS
    actions.act(trainer, "module")
    assert len(CALLS) == 1


def test_a_restart_forgets_what_is_pending(tmp_path):
    actions = StabilityActions(on_collapse="raise")
    actions.raised(alert("dead_class"), Trainer(tmp_path))
    actions.restart(3)
    actions.act(None, None)
    assert actions.skipped() == 3
