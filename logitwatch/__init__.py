"""logitwatch: watch a model's logits while it trains. One line: ``Trainer(callbacks=logitwatch.watch())``.

Names load when they are first used, so importing the package costs Python alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logitwatch.callbacks.attention_monitor import AttentionMonitor as AttentionMonitor
    from logitwatch.callbacks.calibration_monitor import CalibrationMonitor as CalibrationMonitor
    from logitwatch.callbacks.dropout_probe import DropoutProbe as DropoutProbe
    from logitwatch.callbacks.gradient_monitor import GradientMonitor as GradientMonitor
    from logitwatch.callbacks.logit_monitor import LogitMonitor as LogitMonitor
    from logitwatch.callbacks.recalibrator import Recalibrator as Recalibrator
    from logitwatch.callbacks.stability_guard import StabilityGuard as StabilityGuard
    from logitwatch.callbacks.watch import watch as watch
    from logitwatch.capture.explicit import observe as observe

__version__ = "0.1.0"

_HOMES = {
    "AttentionMonitor": "logitwatch.callbacks.attention_monitor",
    "CalibrationMonitor": "logitwatch.callbacks.calibration_monitor",
    "DropoutProbe": "logitwatch.callbacks.dropout_probe",
    "GradientMonitor": "logitwatch.callbacks.gradient_monitor",
    "LogitMonitor": "logitwatch.callbacks.logit_monitor",
    "Recalibrator": "logitwatch.callbacks.recalibrator",
    "StabilityGuard": "logitwatch.callbacks.stability_guard",
    "observe": "logitwatch.capture.explicit",
    "watch": "logitwatch.callbacks.watch",
}

__all__ = [
    "AttentionMonitor",
    "CalibrationMonitor",
    "DropoutProbe",
    "GradientMonitor",
    "LogitMonitor",
    "Recalibrator",
    "StabilityGuard",
    "observe",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'logitwatch' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
