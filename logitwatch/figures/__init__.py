"""Pictures of calibration: ``prepare_*`` gives plain numbers, ``draw_*`` draws them on axes, ``*_figure`` does both.

Only drawing wants matplotlib, which is imported nowhere else: ``pip install 'logitwatch[figures]'``. pyplot and the
user's style are left alone. A figure reaches TensorBoard or W&B as a reading:
``Figure(tag=..., step=..., factory=partial(reliability_figure, sketch))``.
"""

from logitwatch.figures.gap_heatmap import GapHeatmap, draw_gap_heatmap, gap_heatmap_figure, prepare_gap_heatmap
from logitwatch.figures.recalibration import (
    Recalibration,
    draw_recalibration,
    draw_recalibration_histogram,
    prepare_recalibration,
    recalibration_figure,
)
from logitwatch.figures.reliability import (
    ReliabilityDiagram,
    draw_confidence_histogram,
    draw_reliability_diagram,
    prepare_reliability_diagram,
    reliability_figure,
)
from logitwatch.figures.risk_coverage import (
    RiskCoverage,
    draw_risk_coverage,
    prepare_risk_coverage,
    risk_coverage_figure,
)

__all__ = [
    "GapHeatmap",
    "Recalibration",
    "ReliabilityDiagram",
    "RiskCoverage",
    "draw_confidence_histogram",
    "draw_gap_heatmap",
    "draw_recalibration",
    "draw_recalibration_histogram",
    "draw_reliability_diagram",
    "draw_risk_coverage",
    "gap_heatmap_figure",
    "prepare_gap_heatmap",
    "prepare_recalibration",
    "prepare_reliability_diagram",
    "prepare_risk_coverage",
    "recalibration_figure",
    "reliability_figure",
    "risk_coverage_figure",
]
