import logging
import random
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from architecture.source_tree import PACKAGE, modules
from helpers.bad_monitors import MUTANTS, Good, Plain, Positional, Unresumable
from helpers.models import NAMESPACES, namespace

from logitwatch.callbacks.attention_monitor import AttentionMonitor
from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.dropout_probe import DropoutProbe
from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.gradient_monitor import GradientMonitor
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.testing.monitor_checks import check_monitor, monitor_checks

CHECKS = monitor_checks()


def of_criterion():
    return LogitMonitor(source="criterion")


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize(
    "factory",
    [AttentionMonitor, LogitMonitor, CalibrationMonitor, DropoutProbe, GradientMonitor, of_criterion, Good],
    ids=lambda factory: factory.__name__,
)
def test_a_monitor_passes(factory, name):
    CHECKS[name](factory)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["head", "cross_entropy", "outputs", "no such thing"])
def test_a_monitor_of_any_source_passes(source):
    check_monitor(lambda: LogitMonitor(source=source, every_n_steps=1, rows=4))


def test_no_check_is_vacuous():
    assert {mutant.check for mutant in MUTANTS} == set(CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.kind.__name__)
def test_a_bad_monitor_fails_the_one_check_it_is_bad_at(mutant):
    failed = []
    for name, check in CHECKS.items():
        try:
            check(mutant.kind)
        except Exception:
            failed.append(name)
    assert failed == [mutant.check]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMESPACES)
@pytest.mark.parametrize("kind", ["LearningRateMonitor", "DeviceStatsMonitor", "Timer", "ModelSummary"])
def test_what_lightning_brings_fails_for_its_positional_options_alone(name, kind):
    with pytest.raises(AssertionError) as raised:
        check_monitor(getattr(namespace(name).callbacks, kind))
    (line,) = str(raised.value).splitlines()[1:]
    assert "is not keyword-only" in line


def test_each_failure_is_listed_with_its_reason():
    class Several(Unresumable, Positional):
        pass

    with pytest.raises(AssertionError) as raised:
        check_monitor(Several)
    head, *lines = str(raised.value).splitlines()
    assert head == f"Several fails 3 of {len(CHECKS)} checks:"
    assert lines[0] == "  options are keywords with plain defaults: every is not keyword-only"
    assert "it is copied and pickled before and after a fit: a pickle before a fit: " in lines[1]  # it is local
    assert lines[2].startswith("  a run resumes from its checkpoint: KeyError: 'old' (bad_monitors.py:")
    assert isinstance(raised.value.__cause__, AssertionError)


def test_a_long_reason_is_abridged():
    class Harms(Plain):
        def on_train_end(self, trainer, pl_module):
            for parameter in pl_module.parameters():
                parameter.data.add_(1)

    with pytest.raises(AssertionError) as raised:
        check_monitor(Harms)
    text = str(raised.value)
    assert "parameter body.0.weight: 128 of 128 elements differ" in text
    assert "... and 1 more" in text


def drawn():
    return torch.rand(1).item(), np.random.rand(), random.random()


def test_nothing_stays_behind_and_nothing_is_heard(capfd, caplog):
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = drawn()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    loggers = [logging.getLogger(name) for name in ("logitwatch", *NAMESPACES)]
    before = [(list(logger.handlers), logger.propagate, logger.level) for logger in loggers]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        check_monitor(Good)
    assert warned == []
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert [(list(logger.handlers), logger.propagate, logger.level) for logger in loggers] == before
    assert drawn() == expected
    assert Faults.inject is None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("logitwatch")]


def test_neither_pytest_nor_hypothesis_is_needed():
    tree = [module for module in modules(PACKAGE).values() if module.folder == "testing"]
    roots = {imported.root for module in tree for imported in module.imports if not imported.typing_only}
    assert roots - set(sys.stdlib_module_names) == {"logitwatch", "torch"}
    assert len(tree) > 9
