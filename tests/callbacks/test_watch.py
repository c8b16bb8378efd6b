import inspect

import pytest

from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.callbacks.stability_guard import StabilityGuard
from logitwatch.callbacks.watch import watch


def test_it_is_a_list_of_the_three_monitors():
    monitors = watch()
    assert [type(monitor) for monitor in monitors] == [LogitMonitor, CalibrationMonitor, StabilityGuard]
    assert type(monitors) is list


def test_each_option_reaches_all():
    for monitor in watch(budget=0.2, every_n_steps=3, rows=7, source="head"):
        options = (monitor.budget, monitor.every_n_steps, monitor.rows, monitor.source)
        assert options == (0.2, 3, 7, "head")


def test_a_wrong_option_is_refused_at_once():
    with pytest.raises(ValueError, match="budget must be in"):
        watch(budget=0)


def test_every_option_is_a_keyword_with_a_type():
    for parameter in inspect.signature(watch).parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.annotation is not inspect.Parameter.empty
