"""Frozen, fixed-size, mergeable summaries: ``empty()``, ``of(...)``, ``merge(other)``."""

from logitwatch.states.calibration_sketch import CalibrationSketch, ReliabilityCurve
from logitwatch.states.extrema import Extrema
from logitwatch.states.logit_histogram import Buckets, LogitHistogram
from logitwatch.states.logit_summary import LogitSummary
from logitwatch.states.moments import Moments
from logitwatch.states.protocol import Packed, State, pack, to_device, unpack

__all__ = [
    "Buckets",
    "CalibrationSketch",
    "Extrema",
    "LogitHistogram",
    "LogitSummary",
    "Moments",
    "Packed",
    "ReliabilityCurve",
    "State",
    "pack",
    "to_device",
    "unpack",
]
