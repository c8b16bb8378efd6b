"""A summary of attention as numbers of layers with names, and as readings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from logitwatch.callbacks.tags import Tags
from logitwatch.sinks.glossary import describe
from logitwatch.sinks.readings import Heatmap, Reading, Scalars
from logitwatch.states.attention_summary import AttentionSummary

__all__ = ["AttentionReport", "attention_readings", "attention_report"]

COUNTS = ("rows", "nonfinite", "unread", "left_out")


class AttentionReport(NamedTuple):
    """Size and spread in one report; NaN where a layer has no such head or no number of it is known."""

    where: str  # stage, and data loader
    step: int
    layers: Sequence[str]
    max_logit: Tensor  # [layers, heads], of the rows looked at
    bound: Tensor  # [layers, heads], of all rows
    entropy: Tensor  # [layers, heads], a fraction


def attention_report(summary: AttentionSummary, layers: Sequence[str], tags: Tags, step: int) -> AttentionReport:
    """The layers and heads of which something was seen.

    Args:
        summary: On the CPU.
        layers: Names of the layers by their place.
        tags: Of the report.
        step: Of the report.

    Examples:
        >>> import torch
        >>> from logitwatch.functional.attention import head_statistics
        >>> summary = AttentionSummary.of({1: head_statistics(torch.ones(1, 2, 1, 3))})
        >>> report = attention_report(summary, ["first", "second"], Tags("val"), 7)
        >>> report.layers, report.max_logit.tolist()
        (['second'], [[1.0, 1.0]])
    """
    seen = summary.rows > 0
    places = seen.any(1).nonzero().flatten().tolist()
    heads = sum(seen.any(0).tolist())  # heads are counted from the first
    max_logit, bound, entropy = (
        values.where(seen & (values > -math.inf), math.nan)[places, :heads]
        for values in (summary.max_logit, summary.bound, summary.mean_entropy())
    )
    names = [layers[place] if place < len(layers) else f"layer {place}" for place in places]
    where = f"{tags.stage} (data loader {tags.loader})" if tags.loader else tags.stage
    return AttentionReport(where, step, names, max_logit, bound, entropy)


def attention_readings(report: AttentionReport, summary: AttentionSummary, tags: Tags) -> list[Reading]:
    """Scalars, and two maps of layer by head. A number that is not finite is left out: the counts tell of it."""
    entropy = report.entropy[~report.entropy.isnan()].tolist()
    values = {
        "max_logit": _largest(report.max_logit),
        "max_logit_bound": _largest(report.bound),
        "entropy": sum(entropy) / len(entropy) if entropy else math.nan,
        "entropy_min": min(entropy, default=math.nan),
        **{name: float(getattr(summary, name).sum()) for name in COUNTS},
    }
    scalars = {tags("attention", name): value for name, value in values.items() if math.isfinite(value)}
    maps = {"max_logit_by_head": report.max_logit, "entropy_by_head": report.entropy}
    heatmaps = (_heatmap(tags("attention", name), report, numbers) for name, numbers in maps.items())
    return [Scalars(values=scalars, step=report.step), *heatmaps]


def _largest(numbers: Tensor) -> float:
    known = numbers[~numbers.isnan()].tolist()
    return max(known, default=math.nan)


def _heatmap(tag: str, report: AttentionReport, numbers: Tensor) -> Heatmap:
    """Four digits of each number: there may be thousands of them in every report."""
    return Heatmap(
        tag=tag,
        step=report.step,
        values=[[float(f"{value:.4g}") for value in row] for row in numbers.tolist()],
        row_labels=report.layers,
        column_labels=[f"head {head}" for head in range(numbers.shape[1])],
        unit=describe(tag).unit,
        meaning=describe(tag).meaning,
    )
