"""Before and after recalibration: two reliability diagrams in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from logitwatch.figures.canvas import COLD, WARM, legend, new_figure, rows_axis, title, unit_square
from logitwatch.figures.plain import Number, spelled
from logitwatch.figures.reliability import (
    ReliabilityDiagram,
    draw_intervals,
    draw_smooth_curve,
    prepare_reliability_diagram,
)
from logitwatch.states.calibration_sketch import CalibrationSketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Recalibration",
    "draw_recalibration",
    "draw_recalibration_histogram",
    "prepare_recalibration",
    "recalibration_figure",
]


class Recalibration(NamedTuple):
    """The diagrams of the same rows before and after."""

    before: ReliabilityDiagram
    after: ReliabilityDiagram


def prepare_recalibration(before: CalibrationSketch, after: CalibrationSketch, *, num_bins: int = 15) -> Recalibration:
    """The numbers of both diagrams, see `prepare_reliability_diagram`.

    Args:
        before: What the logits were.
        after: What the recalibrated logits are, of rows the calibrator was not fitted on.
        num_bins: Bins of equal width, from 1 to 3600.
    """
    return Recalibration(*(prepare_reliability_diagram(sketch, num_bins=num_bins) for sketch in (before, after)))


def draw_recalibration(axes: Axes, data: Recalibration) -> None:
    """Draw accuracy against confidence before and after: bins with their intervals, and the smooth curves.

    Args:
        axes: Matplotlib axes, of which title, labels, limits and legend are set.
        data: What `prepare_recalibration` gave.
    """
    unit_square(axes)
    for name, diagram, colour in (("before", data.before, WARM), ("after", data.after, COLD)):
        draw_intervals(axes, diagram, color=colour, label="_")
        draw_smooth_curve(axes, diagram, color=colour, label=f"{name}: confidence {spelled(diagram.mean_confidence)}")
    legend(axes)
    before, after = data
    verdict = f"ECE {_change(before.ece, after.ece)} (calibrated: {_change(before.null_ece, after.null_ece)})"
    accuracy = _change(before.mean_accuracy, after.mean_accuracy)
    title(axes, verdict, f"NLL {_change(before.nll, after.nll)} nats, accuracy {accuracy}")


def draw_recalibration_histogram(axes: Axes, data: Recalibration) -> None:
    """Draw how many rows each bin has before and after, on a logarithmic scale.

    Args:
        axes: Matplotlib axes, of which labels and limits are set.
        data: What `prepare_recalibration` gave.
    """
    before, after = data
    axes.stairs(before.counts, before.edges, fill=True, color=WARM, alpha=0.35, baseline=0.5)
    axes.stairs(after.counts, after.edges, color=COLD, linewidth=1.8, baseline=0.5)
    rows_axis(axes, max(sum(before.counts), sum(after.counts)))


def recalibration_figure(before: CalibrationSketch, after: CalibrationSketch, *, num_bins: int = 15) -> Figure:
    """Both reliability diagrams over their confidence histograms, as a matplotlib figure unknown to pyplot.

    Args:
        before: What the logits were.
        after: What the recalibrated logits are, of rows the calibrator was not fitted on.
        num_bins: Bins of equal width, from 1 to 3600.

    Raises:
        ImportError: If there is no matplotlib.

    Examples:
        >>> import torch
        >>> logits, targets = torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
        >>> before, after = (CalibrationSketch.of(z, targets) for z in (logits, logits / 1.8205))
        >>> recalibration_figure(before, after).axes[0].get_title(loc="left")
        'ECE 0.131 → 2.4e-06 (calibrated: 0.143 → 0.158)'
    """
    data = prepare_recalibration(before, after, num_bins=num_bins)
    figure = new_figure(5.8)
    top, bottom = figure.subplots(2, 1, height_ratios=(3.2, 1))
    draw_recalibration(top, data)
    draw_recalibration_histogram(bottom, data)
    return figure


def _change(before: Number, after: Number) -> str:
    return f"{spelled(before)} → {spelled(after)}"
