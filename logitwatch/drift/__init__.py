"""Whether a series of numbers is still what it was: sequential detectors, plain Python, resumable."""

from logitwatch.drift.baseline import Baseline, Whitener
from logitwatch.drift.detectors import Cusum, EProcess, PageHinkley, RollingZScore
from logitwatch.drift.episode import Episode, Level
from logitwatch.drift.evidence import Evidence, Side, signs_of
from logitwatch.drift.growth import Forecast, forecast
from logitwatch.drift.verdict import Detector, Verdict

__all__ = [
    "Baseline",
    "Cusum",
    "Detector",
    "EProcess",
    "Episode",
    "Evidence",
    "Forecast",
    "Level",
    "PageHinkley",
    "RollingZScore",
    "Side",
    "Verdict",
    "Whitener",
    "forecast",
    "signs_of",
]
