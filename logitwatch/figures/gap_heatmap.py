"""Calibration over time: the gap of each bin of confidence, epoch by epoch, as colour."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from logitwatch.figures.canvas import SMALL, new_figure, title
from logitwatch.figures.plain import Number, drawn, number, numbers, spelled
from logitwatch.states.calibration_sketch import CalibrationSketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["GapHeatmap", "draw_gap_heatmap", "gap_heatmap_figure", "prepare_gap_heatmap"]

COLOURS = "RdBu_r"  # warm is over-confident; told apart by all eyes
EMPTY = "#C8C8C8"


class GapHeatmap(NamedTuple):
    """Plain numbers of the map; None where a bin has too few rows to tell."""

    epochs: list[int]  # rising
    edges: list[float]  # of the bins, one more than these
    gaps: list[list[Number]]  # mean confidence less accuracy, a list of bins for each epoch
    counts: list[list[int]]  # rows, likewise
    ece: list[Number]  # of each epoch
    null_ece: list[Number]  # what a calibrated model would show
    min_rows: int  # fewer tell nothing


def prepare_gap_heatmap(
    sketches: Mapping[int, CalibrationSketch], *, num_bins: int = 15, min_rows: int = 10
) -> GapHeatmap:
    """The numbers of a map of gaps.

    Args:
        sketches: What was seen, by epoch.
        num_bins: Bins of equal width, from 1 to 3600.
        min_rows: A bin with fewer rows has no gap: it would be noise in the strongest colours.

    Examples:
        >>> import torch
        >>> seen = CalibrationSketch.of(torch.tensor([[2.0, 0.0]] * 4), torch.tensor([0, 1, 1, 1]))
        >>> heatmap = prepare_gap_heatmap({3: seen}, num_bins=2, min_rows=1)
        >>> heatmap.epochs, [gap and round(gap, 6) for gap in heatmap.gaps[0]]
        ([3], [None, 0.630797])
    """
    epochs = sorted(sketches)
    curves = [sketches[epoch].reliability_curve(num_bins) for epoch in epochs]
    gaps = [(curve.confidence - curve.accuracy).where(curve.counts >= min_rows, float("nan")) for curve in curves]
    return GapHeatmap(
        epochs=epochs,
        edges=[i / num_bins for i in range(num_bins + 1)],
        gaps=[numbers(gap) for gap in gaps],
        counts=[curve.counts.tolist() for curve in curves],
        ece=[number(sketches[epoch].ece(num_bins)) for epoch in epochs],
        null_ece=[number(sketches[epoch].null_ece(num_bins)) for epoch in epochs],
        min_rows=min_rows,
    )


def draw_gap_heatmap(axes: Axes, heatmap: GapHeatmap) -> None:
    """Draw confidence against epoch, each cell in the colour of its gap, beside a bar that explains the colours.

    Args:
        axes: Matplotlib axes, of which title, labels and limits are set; the bar takes some room from it.
        heatmap: What `prepare_gap_heatmap` gave.
    """
    axes.set_facecolor(EMPTY)
    axes.set(xlabel="epoch", ylabel="confidence (fraction)", ylim=(0, 1))
    if not heatmap.epochs:
        title(axes, "ECE –", "no epochs")
        return
    columns = [drawn(gaps) for gaps in heatmap.gaps]
    limit = _strongest(heatmap)
    cells = axes.pcolormesh(
        _edges(heatmap.epochs), heatmap.edges, list(zip(*columns, strict=True)), cmap=COLOURS, vmin=-limit, vmax=limit
    )
    bar = axes.figure.colorbar(cells, ax=axes, extend="both")
    bar.set_label(f"confidence − accuracy (fraction)\ngrey: fewer than {heatmap.min_rows} rows", fontsize=SMALL)
    axes.locator_params(axis="x", integer=True)
    title(axes, *_verdict(heatmap))


def gap_heatmap_figure(sketches: Mapping[int, CalibrationSketch], *, num_bins: int = 15, min_rows: int = 10) -> Figure:
    """A map of gaps over epochs, as a matplotlib figure unknown to pyplot.

    Args:
        sketches: What was seen, by epoch.
        num_bins: Bins of equal width, from 1 to 3600.
        min_rows: A bin with fewer rows is left grey.

    Raises:
        ImportError: If there is no matplotlib.
    """
    figure = new_figure(4.2)
    draw_gap_heatmap(figure.subplots(), prepare_gap_heatmap(sketches, num_bins=num_bins, min_rows=min_rows))
    return figure


def _edges(epochs: list[int]) -> list[float]:
    """Where columns meet: half way between epochs."""
    between = [(a + b) / 2 for a, b in itertools.pairwise(epochs)]
    half = min((later - earlier for earlier, later in itertools.pairwise(epochs)), default=1) / 2
    return [epochs[0] - half, *between, epochs[-1] + half]


def _strongest(heatmap: GapHeatmap) -> float:
    """The gap of the strongest colour: few cells, of few rows, are beyond it, and rounding is far below."""
    sizes = sorted(abs(gap) for gaps in heatmap.gaps for gap in gaps if gap is not None)
    return max(sizes[int(0.95 * (len(sizes) - 1))] if sizes else 0.0, 0.05)


def _verdict(heatmap: GapHeatmap) -> tuple[str, str]:
    """How the error went from the first epoch with rows to the last, and where it was least."""
    seen = [
        (ece, epoch, null)
        for ece, epoch, null in zip(heatmap.ece, heatmap.epochs, heatmap.null_ece, strict=True)
        if ece is not None
    ]
    if not seen:
        return "ECE –", "no rows"
    (first, start, _), (last, end, null), (lowest, best, _) = seen[0], seen[-1], min(seen)
    verdict = f"ECE {spelled(first)} → {spelled(last)} (calibrated: {spelled(null)})"
    return verdict, f"epoch {start} to {end}, lowest {spelled(lowest)} at epoch {best}"
