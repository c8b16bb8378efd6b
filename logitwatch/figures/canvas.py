"""Where figures begin: colours that all eyes tell apart, and a figure that belongs to no one else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import ColorType

__all__ = ["ink", "legend", "new_figure", "rows_axis", "title", "unit_square"]

# Okabe and Ito's palette; warm is over-confident, cold is under-confident, in every figure.
WARM, COLD, GREEN, PURPLE, AMBER, SKY = "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
LINES = (COLD, WARM, GREEN, PURPLE, AMBER, SKY)
NEUTRAL = "#767676"  # reads on white and on black
# A figure 4.8 inches wide that is shown 400 pixels wide has 83 of them to an inch: letters of 9 points are 10 high.
WIDTH, DPI, SMALL, LARGE = 4.8, 150, 9, 9.8


def new_figure(height: float) -> Figure:
    """An empty figure 4.8 inches wide, of no window and unknown to pyplot.

    Args:
        height: Inches.

    Raises:
        ImportError: If there is no matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"figures want matplotlib: pip install 'logitwatch[figures]' ({error})") from error
    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")


def title(axes: Axes, verdict: str, detail: str) -> None:
    """What a figure says, in numbers: a verdict, and a lighter line below it."""
    axes.set_title(verdict, loc="left", fontsize=LARGE, fontweight="bold", pad=20)
    axes.text(0, 1.015, detail, transform=axes.transAxes, fontsize=SMALL, verticalalignment="bottom")


def ink(axes: Axes) -> ColorType:
    """The colour the user's style writes with: black on white, or the other way around."""
    return axes.xaxis.label.get_color()


def legend(axes: Axes, corner: Literal["upper left", "lower right"] = "upper left", *, ncols: int = 1) -> None:
    """Names of what is drawn, on a ground that lines behind it do not show through."""
    axes.legend(loc=corner, fontsize=SMALL, ncols=ncols, frameon=True, framealpha=0.85, edgecolor="none")


def unit_square(axes: Axes) -> None:
    """Limits and labels of accuracy against confidence."""
    axes.plot([0, 1], [0, 1], color=NEUTRAL, linestyle="--", linewidth=1, label="calibrated")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence (fraction)", ylabel="accuracy (fraction)")


def rows_axis(axes: Axes, rows: int) -> None:
    """A logarithmic axis of counts below a diagram, from half a row to the whole and room for a legend above."""
    axes.set(xlim=(0, 1), xlabel="confidence (fraction)", ylabel=f"rows (of {_short(rows)})", yscale="log")
    axes.set_ylim(0.5, 30 * max(rows, 5))
    axes.yaxis.set_major_formatter(lambda count, _: _short(count))
    axes.yaxis.set_minor_formatter("")


def _short(count: float) -> str:
    """A count in at most four signs: 850, 1.5k, 12M."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{sign}"
    return f"{count:.0f}"
