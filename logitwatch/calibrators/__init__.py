"""Maps from logits to calibrated logits, fitted on held-out rows: ``fit(logits, targets)``, then a module like any."""

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.identity import Identity
from logitwatch.calibrators.inputs import CalibrationWarning
from logitwatch.calibrators.temperature import TemperatureScaling

__all__ = [
    "CalibrationWarning",
    "Calibrator",
    "Identity",
    "TemperatureScaling",
]
