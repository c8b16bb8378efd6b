"""Maps from logits to calibrated logits, fitted on held-out rows: ``fit(logits, targets)``, then a module like any."""

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.bias import BiasCorrection
from logitwatch.calibrators.identity import Identity
from logitwatch.calibrators.inputs import CalibrationWarning
from logitwatch.calibrators.matrix import MatrixScaling
from logitwatch.calibrators.temperature import TemperatureScaling
from logitwatch.calibrators.vector import VectorScaling

__all__ = [
    "BiasCorrection",
    "CalibrationWarning",
    "Calibrator",
    "Identity",
    "MatrixScaling",
    "TemperatureScaling",
    "VectorScaling",
]
