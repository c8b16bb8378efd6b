"""States as metrics of torchmetrics, which is imported nowhere else."""

from logitwatch.metrics.adapter import StateMetric
from logitwatch.metrics.named import (
    CalibrationError,
    LogitRange,
    OptimalTemperature,
    PredictiveEntropy,
    SmoothCalibrationError,
)

__all__ = [
    "CalibrationError",
    "LogitRange",
    "OptimalTemperature",
    "PredictiveEntropy",
    "SmoothCalibrationError",
    "StateMetric",
]
