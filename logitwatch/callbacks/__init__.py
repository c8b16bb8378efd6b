"""Monitors: callbacks for a Trainer of either Lightning namespace."""

from logitwatch.callbacks.attention_monitor import AttentionMonitor
from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.dropout_probe import DropoutProbe
from logitwatch.callbacks.gradient_monitor import GradientMonitor
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.recalibrator import Recalibrator
from logitwatch.callbacks.stability_guard import StabilityGuard
from logitwatch.callbacks.watch import watch

__all__ = [
    "AttentionMonitor",
    "CalibrationMonitor",
    "DropoutProbe",
    "GradientMonitor",
    "LogitMonitor",
    "Monitor",
    "Recalibrator",
    "StabilityGuard",
    "watch",
]
