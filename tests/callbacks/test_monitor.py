import copy
import inspect
import json
import pickle

import pytest
from helpers.models import loader, model, namespace, trainer

from logitwatch.callbacks._compat import UNUSED_HOOKS
from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.callbacks.monitor import Monitor

L = namespace("pytorch_lightning")
MONITORS = [LogitMonitor, CalibrationMonitor]
each = pytest.mark.parametrize("kind", MONITORS, ids=lambda kind: kind.__name__)


@each
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("budget", 0.0, "budget must be in (0, 1), got 0.0"),
        ("budget", 1.0, "budget must be in (0, 1), got 1.0"),
        ("every_n_steps", 0, "every_n_steps must be >= 1 or None, got 0"),
        ("rows", 0, "rows must be >= 1 or None, got 0"),
        ("on_fault", "ignore", "on_fault must be 'isolate' or 'raise', got 'ignore'"),
    ],
)
def test_a_wrong_option_is_refused_at_once(kind, option, value, message):
    with pytest.raises(ValueError, match="must be") as error:
        kind(**{option: value})
    assert str(error.value) == message


@each
def test_every_option_is_a_keyword_typed_and_documented(kind):
    documented = inspect.getdoc(kind)
    for name, parameter in inspect.signature(kind).parameters.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.annotation is not inspect.Parameter.empty
        assert f"\n    {name}: " in documented
        json.dumps(parameter.default)


@each
def test_it_is_a_callback_of_both_namespaces(kind):
    for name in ("lightning.pytorch", "pytorch_lightning"):
        assert isinstance(kind(), namespace(name).Callback)


def test_checkpoints_tell_kinds_and_sources_apart():
    keys = [kind(source=source).state_key for kind in MONITORS for source in (None, "a", "b")]
    assert len(set(keys)) == len(keys)
    # A cadence set by hand later must still find what was saved.
    assert LogitMonitor(every_n_steps=3).state_key == LogitMonitor().state_key


@each
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_it_is_copied_and_pickled(kind, copied):
    monitor = copied(kind(every_n_steps=2, rows=5, source="net.3"))
    assert (monitor.every_n_steps, monitor.rows, monitor.source) == (2, 5, "net.3")
    assert monitor.state_key == kind(source="net.3").state_key
    trainer(L, [monitor]).fit(model(L), loader(32))


@each
def test_hooks_outside_a_run_do_nothing(kind):
    monitor = kind()
    assert monitor.state_dict() == {}
    for hook in ("on_train_start", "on_train_end", "on_validation_epoch_start", "on_validation_epoch_end"):
        assert getattr(monitor, hook)(None, None) is None
    monitor.on_exception(None, None, ValueError())
    monitor.teardown(None, None, "fit")


@each
@pytest.mark.parametrize("hook", UNUSED_HOOKS)
def test_it_costs_nothing_in_the_hooks_of_every_step(kind, hook):
    # Lightning calls these for each batch; what is not callable it passes over.
    assert not callable(getattr(kind, hook))


def test_a_subclass_may_still_use_a_hook_of_every_step():
    calls = []

    class Mine(LogitMonitor):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            calls.append(batch_idx)

    trainer(L, [Mine()]).fit(model(L), loader(64))
    assert calls == [0, 1, 2, 3]


def test_the_base_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Monitor()
