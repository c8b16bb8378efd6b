"""Risk against coverage: how often a model errs when it answers only what it is sure of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from logitwatch.figures.canvas import LINES, legend, new_figure, title
from logitwatch.figures.plain import Number, number, spelled
from logitwatch.states.calibration_sketch import CalibrationSketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["RiskCoverage", "draw_risk_coverage", "prepare_risk_coverage", "risk_coverage_figure"]

TRUSTED = 0.1  # the axis is scaled by what is answered at this coverage and above: before it, a single row is a jump
PART = 0.8  # the coverage the title tells of
DASHES = ("-", "--", "-.", ":")


class RiskCoverage(NamedTuple):
    """Plain numbers of one model's curve; None where there is none."""

    name: str
    coverage: list[float]  # fraction answered, from 0 to 1
    risk: list[float]  # fraction wrong of the answered
    threshold: list[float]  # confidence above which is answered
    aurc: Number  # area under the curve
    rows: int


def prepare_risk_coverage(sketches: Mapping[str, CalibrationSketch]) -> list[RiskCoverage]:
    """The numbers of one curve per model.

    Args:
        sketches: What was seen, by the name of the model.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> (curve,) = prepare_risk_coverage({"net": CalibrationSketch.of(logits, torch.tensor([0, 1, 0, 0]))})
        >>> curve.coverage, curve.risk
        ([0.0, 0.25, 0.5, 1.0], [0.0, 0.0, 0.5, 0.25])
    """
    return [_prepared(name, sketch) for name, sketch in sketches.items()]


def draw_risk_coverage(axes: Axes, curves: list[RiskCoverage]) -> None:
    """Draw the curves of all models, each with the area under it in the legend.

    Args:
        axes: Matplotlib axes, of which title, labels, limits and legend are set.
        curves: What `prepare_risk_coverage` gave.
    """
    for i, curve in enumerate(curves):
        colour, dash = LINES[i % len(LINES)], DASHES[i % len(DASHES)]
        label = f"{curve.name}: AURC {spelled(curve.aurc)}"
        axes.plot(curve.coverage, curve.risk, color=colour, linestyle=dash, linewidth=1.8, label=label)
    seen = [curve for curve in curves if curve.coverage]
    trusted = [risk for curve in seen for at, risk in zip(curve.coverage, curve.risk, strict=True) if at >= TRUSTED]
    # Nothing wrong, or nothing at all, has a scale as well.
    axes.set(xlim=(0, 1), ylim=(0, 1.1 * max([*trusted, 0.01])))
    axes.set(xlabel="coverage (fraction answered, surest first)", ylabel="risk (fraction wrong of the answered)")
    if curves:
        legend(axes)
    title(axes, *_verdict(seen))


def risk_coverage_figure(sketches: Mapping[str, CalibrationSketch]) -> Figure:
    """Risk-coverage curves of some models, as a matplotlib figure unknown to pyplot.

    Args:
        sketches: What was seen, by the name of the model.

    Raises:
        ImportError: If there is no matplotlib.
    """
    figure = new_figure(4.2)
    draw_risk_coverage(figure.subplots(), prepare_risk_coverage(sketches))
    return figure


def _prepared(name: str, sketch: CalibrationSketch) -> RiskCoverage:
    curve, rows = sketch.risk_coverage_curve(), int(sketch.count)
    if not rows:
        return RiskCoverage(name, [], [], [], None, 0)
    new = curve.coverage.diff(prepend=curve.coverage.new_zeros(1)) > 0
    threshold, coverage, risk = (values[new].tolist() for values in curve)
    # The surest rows are one cell; any part of them has, on average over their orders, the risk of all.
    return RiskCoverage(name, [0.0, *coverage], [risk[0], *risk], [1.0, *threshold], number(sketch.aurc()), rows)


def _verdict(seen: list[RiskCoverage]) -> tuple[str, str]:
    """Who sorts right from wrong best, and what not answering the rest would gain."""
    if not seen:
        return "AURC –", "no rows"
    best = min(seen, key=lambda curve: curve.aurc or 0.0)
    found = "AURC" if len(seen) == 1 else "lowest AURC"
    verdict = f"{best.name}: {found} {spelled(best.aurc)}"
    return verdict, f"wrong in {best.risk[-1]:.1%} of all, in {_risk_at(best, PART):.1%} of the surest {PART:.0%}"


def _risk_at(curve: RiskCoverage, coverage: float) -> float:
    """The risk between two points, of rows that are tied there: their wrong ones are spread evenly."""
    i = next(i for i, reached in enumerate(curve.coverage) if reached >= coverage)
    (a, b), (first, last) = curve.coverage[i - 1 : i + 1], curve.risk[i - 1 : i + 1]
    wrong = a * first + (coverage - a) / (b - a) * (b * last - a * first)
    return wrong / coverage
