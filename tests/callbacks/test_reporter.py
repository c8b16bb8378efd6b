import pytest

from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.reporter import Reporter
from logitwatch.capture.look import Look


@pytest.mark.parametrize("left_out", sorted(Reporter.__abstractmethods__))
def test_a_monitor_that_leaves_something_unsaid_cannot_be_made(left_out):
    methods = {name: lambda self, *args, **kwargs: None for name in Reporter.__abstractmethods__ - {left_out}}
    with pytest.raises(TypeError, match=left_out):
        type("Partial", (Monitor,), methods)()


def test_a_reporter_has_nothing_to_say_beside_the_logits_unless_it_says_so():
    assert LogitMonitor().beside(Look("train")) is None


@pytest.mark.parametrize("monitor", [LogitMonitor(), CalibrationMonitor()], ids=lambda m: type(m).__name__)
def test_a_monitor_has_every_attribute_a_reporter_promises(monitor):
    missing = [name for name in Reporter.__annotations__ if not hasattr(monitor, name)]
    assert missing == []
    assert isinstance(monitor, Reporter)
