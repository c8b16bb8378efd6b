"""Frozen, fixed-size, mergeable summaries: ``empty()``, ``of(...)``, ``merge(other)``."""

from logitwatch.states.attention_summary import AttentionSummary
from logitwatch.states.binned_error import Interval
from logitwatch.states.calibration_evidence import CalibrationEvidence, alarm_threshold
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.calibration_summary import CalibrationSummary
from logitwatch.states.class_gradient import ClassGradient
from logitwatch.states.classwise_calibration import ClasswiseCalibration
from logitwatch.states.confidence_cells import ConfidenceCells
from logitwatch.states.dropout_summary import DropoutSummary
from logitwatch.states.extrema import Extrema
from logitwatch.states.gradient_summary import GradientSummary
from logitwatch.states.head_scale import HeadScale
from logitwatch.states.logit_histogram import Buckets, LogitHistogram
from logitwatch.states.logit_summary import LogitSummary
from logitwatch.states.moments import Moments
from logitwatch.states.position_calibration import PositionCalibration
from logitwatch.states.protocol import Packed, State, pack, to_device, unpack
from logitwatch.states.rank_cells import RankCells
from logitwatch.states.reliability import BrierDecomposition, ReliabilityCurve
from logitwatch.states.selective_risk import RiskCoverageCurve
from logitwatch.states.smooth_calibration import SmoothReliabilityCurve
from logitwatch.states.smoothing_grids import SmoothingGrids
from logitwatch.states.temperature_grid import TemperatureFit, TemperatureGrid

__all__ = [
    "AttentionSummary",
    "BrierDecomposition",
    "Buckets",
    "CalibrationEvidence",
    "CalibrationSketch",
    "CalibrationSummary",
    "ClassGradient",
    "ClasswiseCalibration",
    "ConfidenceCells",
    "DropoutSummary",
    "Extrema",
    "GradientSummary",
    "HeadScale",
    "Interval",
    "LogitHistogram",
    "LogitSummary",
    "Moments",
    "Packed",
    "PositionCalibration",
    "RankCells",
    "ReliabilityCurve",
    "RiskCoverageCurve",
    "SmoothReliabilityCurve",
    "SmoothingGrids",
    "State",
    "TemperatureFit",
    "TemperatureGrid",
    "alarm_threshold",
    "pack",
    "to_device",
    "unpack",
]
