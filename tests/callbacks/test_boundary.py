import inspect

import numpy as np
import pytest
import torch
from helpers.models import NAMESPACES, loader, model, namespace, trainer

from logitwatch.callbacks.boundary import HOOKS, is_plain
from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.callbacks.monitor import Monitor

L = namespace("pytorch_lightning")
# Called in a plain fit with a validation and a checkpoint.
FIT_HOOKS = sorted(
    HOOKS
    - {name for name in HOOKS if any(part in name for part in ("test", "predict"))}
    - {"on_exception", "load_state_dict", "on_load_checkpoint", "on_sanity_check_start", "on_sanity_check_end"}
)


def failing(hook, *, times=None):
    """A monitor one of whose hooks fails, after Monitor's own part or before it."""
    calls = []

    def fails(self, *args, **kwargs):
        calls.append(hook)
        if times is None or len(calls) <= times:
            raise RuntimeError("boom")

    kind = type("Failing", (LogitMonitor,), {hook: fails})
    return kind, calls


def trained(callbacks, folder):
    subject = model(L)
    t = trainer(L, callbacks, default_root_dir=folder, enable_checkpointing=True, max_epochs=2)
    t.fit(subject, loader(), loader(32))
    return t, subject


def test_the_hooks_are_those_of_lightning():
    for name in NAMESPACES:
        hooks = {n for n in dir(namespace(name).Callback) if n.startswith("on_")}
        assert hooks | {"setup", "teardown", "state_dict", "load_state_dict"} == HOOKS


@pytest.mark.parametrize("hook", FIT_HOOKS)
def test_a_hook_that_fails_is_counted_and_the_run_is_the_same_run(hook, tmp_path):
    kind, calls = failing(hook)
    monitor = kind(every_n_steps=1)
    t, subject = trained([monitor], tmp_path / "watched")
    _, alone = trained([], tmp_path / "alone")
    assert t.state.finished
    assert calls
    assert monitor.faults == min(3, len(calls))
    for one, other in zip(subject.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)
    # What Monitor does in the hook was done all the same: it joined, reported, and let go.
    assert "logits/val/max" in t.callback_metrics
    assert subject.training_step.__func__ is type(subject).training_step
    assert list(tmp_path.rglob("*.ckpt"))


def test_a_hook_of_a_subclass_is_switched_off_after_three():
    kind, calls = failing("on_train_batch_end")
    monitor = kind()
    trainer(L, [monitor]).fit(model(L), loader(160))
    assert len(calls) == 3
    assert monitor.faults == 3


def test_the_exception_hook_may_fail_too():
    kind, calls = failing("on_exception")
    monitor = kind()

    def step(module, batch, stage):
        raise ValueError("the user's")

    subject = model(L, step)
    with pytest.raises(ValueError, match="the user's"):
        trainer(L, [monitor]).fit(subject, loader())
    assert calls == ["on_exception"]
    assert monitor.faults == 1
    assert subject.training_step.__func__ is type(subject).training_step


@pytest.mark.parametrize("calls_super", [True, False])
def test_what_the_base_does_happens_once_whether_or_not_super_is_called(calls_super, monkeypatch):
    told = []
    monkeypatch.setattr(Monitor, "_tell", lambda self, event, *args: told.append(event))

    class Mine(LogitMonitor):
        def on_train_start(self, trainer, pl_module):
            if calls_super:
                super().on_train_start(trainer, pl_module)

    Mine().on_train_start(None, None)
    assert told == ["train_start"]


@pytest.mark.parametrize(
    "state", [{"x": np.float64(1)}, {"x": object()}, [1], print], ids=["numpy", "object", "list", "function"]
)
def test_a_state_that_would_spoil_the_checkpoint_is_left_out_of_it(state, tmp_path):
    class Mine(LogitMonitor):
        def state_dict(self):
            return state

    t, _ = trained([Mine()], tmp_path)
    saved = torch.load(t.checkpoint_callback.best_model_path, weights_only=True)["callbacks"]
    (mine,) = [value for key, value in saved.items() if key.startswith("logitwatch")]
    assert {"cadence", "window"} <= set(mine)


def test_a_state_of_a_subclass_is_added_to_that_of_the_base(tmp_path):
    class Mine(LogitMonitor):
        def state_dict(self):
            return {"mine": torch.ones(2), "list": [1, 2.0, "three", None, (True,)]}

    t, _ = trained([Mine()], tmp_path)
    saved = torch.load(t.checkpoint_callback.best_model_path, weights_only=True)["callbacks"]
    (mine,) = [value for key, value in saved.items() if key.startswith("logitwatch")]
    assert {"cadence", "window", "mine", "list"} <= set(mine)


def test_faults_are_raised_where_they_are_to_be():
    kind, _ = failing("on_train_batch_end")
    with pytest.raises(RuntimeError, match="boom"):
        trainer(L, [kind(on_fault="raise")]).fit(model(L), loader())


def test_a_guarded_hook_keeps_its_name_and_signature():
    assert inspect.signature(LogitMonitor.setup) == inspect.signature(L.Callback.setup).replace(
        parameters=inspect.signature(LogitMonitor.setup).parameters.values(),
        return_annotation=inspect.signature(LogitMonitor.setup).return_annotation,
    )
    assert LogitMonitor.setup.__name__ == "setup"
    assert LogitMonitor.setup.__doc__


def test_the_faults_of_one_run_are_not_those_of_the_next():
    kind, _ = failing("on_train_batch_end", times=2)
    monitor = kind()
    assert monitor.faults == 0
    for expected in (2, 0):
        trainer(L, [monitor]).fit(model(L), loader())
        assert monitor.faults == expected


@pytest.mark.parametrize("place", ["Mine.setup", "Mine.teardown"])
def test_a_fault_after_the_body_joined_or_left_the_session_is_counted_by_all(place):
    class Mine(LogitMonitor):
        def setup(self, trainer, pl_module, stage):
            super().setup(trainer, pl_module, stage)
            if place == "Mine.setup":
                raise RuntimeError("boom")

        def teardown(self, trainer, pl_module, stage):
            super().teardown(trainer, pl_module, stage)
            if place == "Mine.teardown":
                raise RuntimeError("boom")

    mine, other = Mine(), LogitMonitor(source="cross_entropy")
    trainer(L, [mine, other]).fit(model(L), loader(32))
    assert (mine.faults, other.faults) == (1, 1)


def test_a_fault_of_the_last_monitor_to_leave_is_counted_by_the_first():
    class Last(CalibrationMonitor):
        def teardown(self, trainer, pl_module, stage):
            raise RuntimeError("boom")

    first, last = LogitMonitor(), Last()
    trainer(L, [first, last]).fit(model(L), loader(32))
    assert (first.faults, last.faults) == (1, 1)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"a": {1: [torch.zeros(1), "b", 2.0, True, None]}}, True),
        ({1.0: 1}, False),
        (np.float64(1), False),
        (torch.nn.Parameter(torch.zeros(1)), False),
        ({"a": {1, 2}}, False),
    ],
)
def test_plain_is_what_a_safe_load_accepts(value, plain):
    assert is_plain(value) is plain
