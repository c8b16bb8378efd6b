"""Maps from logits to calibrated logits, fitted on held-out rows: ``fit(logits, targets)``, then a module like any."""

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.beta import BetaCalibration
from logitwatch.calibrators.bias import BiasCorrection
from logitwatch.calibrators.histogram import HistogramBinning
from logitwatch.calibrators.identity import Identity
from logitwatch.calibrators.inputs import CalibrationWarning
from logitwatch.calibrators.isotonic import IsotonicCalibration
from logitwatch.calibrators.matrix import MatrixScaling
from logitwatch.calibrators.platt import PlattScaling
from logitwatch.calibrators.selection import Selection, select_calibrator
from logitwatch.calibrators.temperature import TemperatureScaling
from logitwatch.calibrators.vector import VectorScaling

__all__ = [
    "BetaCalibration",
    "BiasCorrection",
    "CalibrationWarning",
    "Calibrator",
    "HistogramBinning",
    "Identity",
    "IsotonicCalibration",
    "MatrixScaling",
    "PlattScaling",
    "Selection",
    "TemperatureScaling",
    "VectorScaling",
    "select_calibrator",
]
