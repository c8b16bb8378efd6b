"""Trains examples/z_loss.py and examples/logit_norm.py and draws them: ``python docs/loss_figures.py FOLDER [DATA]``.

DATA is the folder of Fashion-MNIST where Debian's package is not installed. Wants examples/ on PYTHONPATH.
"""

import sys
from pathlib import Path
from statistics import mean
from typing import Any

import logit_norm
import z_loss
from _fashion import FOLDER
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from logitwatch.figures.canvas import COLD, GREEN, NEUTRAL, SMALL, WARM, new_figure

COLOURS = dict(zip(z_loss.CRITERIA, (WARM, GREEN, COLD), strict=True))
STYLES = dict(zip(z_loss.CRITERIA, ("-", ":", "-."), strict=True))
LINES = dict(zip(logit_norm.CRITERIA, (WARM, COLD), strict=True))
MARKS = dict(zip(logit_norm.CRITERIA, "oD", strict=True))


def of_z_loss(found: dict[tuple[str, float], Any], steps: int) -> Figure:
    """The log-partition over the steps, a panel for each learning rate and a thin line for each seed."""
    figure = new_figure(3.0)
    figure.set_size_inches(8.0, 3.0)
    panels = figure.subplots(1, len(z_loss.RATES), sharey=True, squeeze=False)[0]
    for axes, rate in zip(panels, z_loss.RATES, strict=True):
        axes.axhline(0, color=NEUTRAL, linewidth=1, linestyle="--")
        for name, colour in COLOURS.items():
            for run in found[name, rate]:
                seen = run["logits/val/log_partition"]
                at = [steps * (i + 1) / len(seen) for i in range(len(seen))]
                axes.plot(at, seen, STYLES[name], color=colour, linewidth=1.4)
        named(axes, f"learning rate {rate}")
    panels[0].set_ylabel("log-partition (nats)", fontsize=SMALL)
    panels[len(panels) // 2].set_xlabel("optimizer step", fontsize=SMALL)
    for y, (name, colour) in zip((0.3, 0.2, 0.1), COLOURS.items(), strict=True):
        panels[0].text(0.06, y, name, transform=panels[0].transAxes, color=colour, fontsize=SMALL, fontweight="bold")
    return figure


def of_logit_norm(found: dict[str, Any]) -> Figure:
    """The norm over the epochs, and below it the share of clothing that passes for digits, by score."""
    figure = new_figure(4.8)
    top, bottom = figure.subplots(2, 1, height_ratios=(1.5, 1))
    for y, (name, colour) in zip((38, 4), LINES.items(), strict=True):
        for run in found[name]["logged"]:
            norms = run["logits/train/norm"]
            top.plot(range(1, len(norms) + 1), norms, color=colour, linewidth=1)
            learnt = next((i for i, share in enumerate(run["logits/train/accuracy"]) if share == 1), None)
            if learnt is not None:
                top.plot(learnt + 1, norms[learnt], MARKS[name], color=colour, markersize=4)
        top.text(0.98, y, name, transform=top.get_yaxis_transform(), color=colour, ha="right", fontsize=SMALL)
    for y, score in enumerate(logit_norm.SCORES):
        for offset, (name, colour) in zip((-0.16, 0.16), LINES.items(), strict=True):
            shares = [row[f"FPR95, {score}"] for row in found[name]["rows"]]
            bottom.plot(shares, [y + offset] * len(shares), MARKS[name], color=colour, alpha=0.5, markersize=5, mew=0)
            bottom.plot(mean(shares), y + offset, "|", color=colour, markersize=13, mew=2)
    named(top, "Norm of the logits while training; mark: no mistake left")
    named(bottom, "Clothing that passes for a digit, by score; bar: mean")
    top.set_xlabel("epoch", fontsize=SMALL)
    bottom.set_xlabel("FPR95: fraction that passes where 95% of digits do", fontsize=SMALL)
    bottom.set(xlim=(0, 1), ylim=(2.6, -0.6))
    bottom.set_yticks(range(len(logit_norm.SCORES)), list(logit_norm.SCORES))
    return figure


def named(axes: Axes, name: str) -> None:
    axes.set_title(name, loc="left", fontsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)


def main(folder: Path, *data: Path) -> None:
    of_z_loss(z_loss.main(), z_loss.STEPS).savefig(folder / "z_loss.png")
    of_logit_norm(logit_norm.main(folder=next(iter(data), FOLDER))).savefig(folder / "logit_norm.png")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
