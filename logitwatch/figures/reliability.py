"""The reliability diagram: what confidence promised against what it kept, bin by bin and smoothly."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from logitwatch.figures.canvas import COLD, NEUTRAL, WARM, ink, legend, new_figure, rows_axis, title, unit_square
from logitwatch.figures.plain import Number, drawn, number, numbers, spelled
from logitwatch.states.calibration_sketch import CalibrationSketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import ColorType

__all__ = [
    "ReliabilityDiagram",
    "draw_confidence_histogram",
    "draw_intervals",
    "draw_reliability_diagram",
    "draw_smooth_curve",
    "prepare_reliability_diagram",
    "reliability_figure",
]


class ReliabilityDiagram(NamedTuple):
    """Plain numbers of one diagram; None where there is none. Fractions but for the counts and the NLL."""

    edges: list[float]  # of the bins, one more than these
    counts: list[int]  # rows of each bin
    confidence: list[Number]  # mean of each bin
    accuracy: list[Number]  # of each bin
    lower: list[Number]  # 95 % Wilson interval of that accuracy
    upper: list[Number]
    smooth_confidence: list[Number]  # the curve without bins
    smooth_accuracy: list[Number]
    bandwidth: Number  # standard deviation of the kernel of that curve
    ece: Number
    ece_lower: Number  # 95 % limits of the ECE
    ece_upper: Number
    null_ece: Number  # what a calibrated model would show at these counts
    overconfidence: Number  # the parts of the ECE
    underconfidence: Number
    mean_confidence: Number
    mean_accuracy: Number
    nll: Number  # nats

    @property
    def verdict(self) -> str:
        """Which way confidence errs, or that the rows do not say.

        Examples:
            >>> prepare_reliability_diagram(CalibrationSketch.empty()).verdict
            'no rows'
        """
        if self.ece is None:
            return "no rows"
        if not self.ece_lower:
            return "calibration not ruled out"
        return "over-confident" if (self.overconfidence or 0) >= (self.underconfidence or 0) else "under-confident"


def prepare_reliability_diagram(sketch: CalibrationSketch, *, num_bins: int = 15) -> ReliabilityDiagram:
    """The numbers of a reliability diagram.

    Args:
        sketch: What was seen.
        num_bins: Bins of equal width, from 1 to 3600.

    Examples:
        >>> import torch
        >>> seen = CalibrationSketch.of(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]))
        >>> diagram = prepare_reliability_diagram(seen, num_bins=2)
        >>> diagram.counts, diagram.accuracy, round(diagram.ece, 6)
        ([0, 2], [None, 0.5], 0.380797)
    """
    bins, smooth = sketch.reliability_curve(num_bins), sketch.smooth_reliability_curve()
    limits = sketch.ece_interval(num_bins)
    return ReliabilityDiagram(
        edges=[i / num_bins for i in range(num_bins + 1)],
        counts=bins.counts.tolist(),
        confidence=numbers(bins.confidence),
        accuracy=numbers(bins.accuracy),
        lower=numbers(bins.lower),
        upper=numbers(bins.upper),
        smooth_confidence=numbers(smooth.confidence),
        smooth_accuracy=numbers(smooth.accuracy),
        bandwidth=number(smooth.bandwidth),
        ece=number(sketch.ece(num_bins)),
        ece_lower=number(limits.lower),
        ece_upper=number(limits.upper),
        null_ece=number(sketch.null_ece(num_bins)),
        overconfidence=number(sketch.overconfidence(num_bins)),
        underconfidence=number(sketch.underconfidence(num_bins)),
        mean_confidence=number(sketch.mean_confidence()),
        mean_accuracy=number(sketch.accuracy()),
        nll=number(sketch.nll()),
    )


def draw_reliability_diagram(axes: Axes, diagram: ReliabilityDiagram) -> None:
    """Draw accuracy against confidence: the gap of each bin, its accuracy with its interval, and the smooth curve.

    Args:
        axes: Matplotlib axes, of which title, labels, limits and legend are set.
        diagram: What `prepare_reliability_diagram` gave.
    """
    unit_square(axes)
    for colour, sign, name in ((WARM, 1, "over-confident"), (COLD, -1, "under-confident")):
        _draw_gaps(axes, diagram, sign, color=colour, label=f"gap, {name}")
    if diagram.bandwidth is not None:
        label = f"smooth, kernel {diagram.bandwidth:.2g} wide"
        draw_smooth_curve(axes, diagram, color=ink(axes), label=label)
        draw_intervals(axes, diagram, color=ink(axes), label="accuracy, 95 % interval")
    # The corner that the points leave empty.
    legend(axes, "lower right" if diagram.verdict == "under-confident" else "upper left")
    verdict = f"ECE {spelled(diagram.ece)} (calibrated model would show {spelled(diagram.null_ece)})"
    means = f"confidence {spelled(diagram.mean_confidence)}, accuracy {spelled(diagram.mean_accuracy)}"
    title(axes, verdict, f"{diagram.verdict}: {means}")


def draw_confidence_histogram(axes: Axes, diagram: ReliabilityDiagram) -> None:
    """Draw how many rows each bin has, on a logarithmic scale, with mean confidence and accuracy as lines.

    Args:
        axes: Matplotlib axes, of which labels, limits and legend are set.
        diagram: What `prepare_reliability_diagram` gave.
    """
    axes.stairs(diagram.counts, diagram.edges, fill=True, color=NEUTRAL, alpha=0.5, baseline=0.5)
    for value, colour, style, name in (
        (diagram.mean_confidence, WARM, "-", "mean confidence"),
        (diagram.mean_accuracy, COLD, "--", "accuracy"),
    ):
        if value is not None:
            axes.axvline(value, color=colour, linestyle=style, linewidth=1.6, label=name)
    rows_axis(axes, sum(diagram.counts))
    if sum(diagram.counts):
        legend(axes, ncols=2)


def reliability_figure(sketch: CalibrationSketch, *, num_bins: int = 15) -> Figure:
    """A reliability diagram over its confidence histogram, as a matplotlib figure unknown to pyplot.

    Args:
        sketch: What was seen.
        num_bins: Bins of equal width, from 1 to 3600.

    Raises:
        ImportError: If there is no matplotlib.

    Examples:
        >>> import torch
        >>> seen = CalibrationSketch.of(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]))
        >>> diagram, histogram = reliability_figure(seen).axes
        >>> diagram.get_title(loc="left")
        'ECE 0.381 (calibrated model would show 0.185)'
    """
    diagram = prepare_reliability_diagram(sketch, num_bins=num_bins)
    figure = new_figure(5.8)
    top, bottom = figure.subplots(2, 1, height_ratios=(3.2, 1))
    draw_reliability_diagram(top, diagram)
    draw_confidence_histogram(bottom, diagram)
    return figure


def draw_smooth_curve(axes: Axes, diagram: ReliabilityDiagram, *, color: ColorType, label: str) -> None:
    """Draw the curve without bins, where there are rows."""
    x, y = drawn(diagram.smooth_confidence), drawn(diagram.smooth_accuracy)
    axes.plot(x, y, color=color, linewidth=1.8, label=label)


def draw_intervals(axes: Axes, diagram: ReliabilityDiagram, *, color: ColorType, label: str) -> None:
    """Draw the accuracy of each bin that has rows, with its interval."""
    x = drawn(diagram.confidence)
    axes.vlines(x, drawn(diagram.lower), drawn(diagram.upper), color=color, linewidth=1.4)
    # A point at full accuracy is not cut in half by the frame.
    axes.plot(x, drawn(diagram.accuracy), "o", color=color, markersize=4, label=label, clip_on=False)


def _draw_gaps(axes: Axes, diagram: ReliabilityDiagram, sign: int, *, color: str, label: str) -> None:
    """Draw what lies between accuracy and mean confidence in the bins where their difference has this sign."""
    width = diagram.edges[1]
    for left, promised, kept in zip(diagram.edges[:-1], diagram.confidence, diagram.accuracy, strict=True):
        if promised is not None and kept is not None and sign * (promised - kept) > 0:
            axes.bar(left, promised - kept, width, kept, align="edge", color=color, alpha=0.35, label=label)
            label = "_"  # one entry of the legend for all
