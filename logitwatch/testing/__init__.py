"""Tools to test a monitor with, of this package or another: no pytest needed, and nothing of the package needs them."""

from logitwatch.testing.chaos import ChaosCallback, InjectedFault
from logitwatch.testing.faulty_logger import FaultyLogger
from logitwatch.testing.harmless import assert_harmless
from logitwatch.testing.monitor_checks import check_monitor, monitor_checks

__all__ = ["ChaosCallback", "FaultyLogger", "InjectedFault", "assert_harmless", "check_monitor", "monitor_checks"]
