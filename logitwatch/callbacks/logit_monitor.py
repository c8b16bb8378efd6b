"""Watches what the logits are: range, spread, entropy, margin, and how they fare against the targets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.glossary import describe
from logitwatch.sinks.readings import Histogram, Reading, Scalars
from logitwatch.states.logit_histogram import LogitHistogram
from logitwatch.states.logit_summary import LogitSummary
from logitwatch.states.protocol import State

__all__ = ["LogitMonitor"]


class LogitMonitor(Monitor):
    """Logs the range, spread and certainty of a model's logits while it trains, validates and tests.

    Logged, under ``logits/<stage>/``: ``max``, ``min``, ``mean``, ``std``, ``norm`` (logit); ``log_partition``,
    ``entropy``, ``margin``, ``nll``, ``overconfidence`` (nats); ``confidence``, ``accuracy``, ``saturation``
    (fraction); ``nonfinite``, ``ignored``, ``bad_target``, ``rows`` (rows); and the histograms ``histogram``,
    ``margin_histogram``, ``confidence_histogram``, ``entropy_histogram``. Terms of a loss of ours go to
    ``losses/<stage>/<term>``. The suite's own cost goes to ``logitwatch/``.

    Args:
        budget: Largest fraction of training-step time the suite may cost; the cadence is chosen from it in the first
            steps and then frozen.
        every_n_steps: Optimizer steps between looks, to set the cadence by hand.
        rows: Rows of a training step whose distribution is taken. Range and non-finite rows are exact over all rows;
            validation takes the distribution of every row too.
        source: Name of the criterion, function or submodule to follow; by default it is found automatically.
        on_fault: ``isolate`` keeps an exception of the monitor from the run, ``raise`` lets it out, for tests.

    Examples:
        >>> LogitMonitor(every_n_steps=10, rows=256).every_n_steps
        10
        >>> LogitMonitor(budget=2.0)
        Traceback (most recent call last):
            ...
        ValueError: budget must be in (0, 1), got 2.0
    """

    def __init__(
        self,
        *,
        budget: float = 0.01,
        every_n_steps: int | None = None,
        rows: int | None = None,
        source: str | None = None,
        on_fault: str = "isolate",
    ) -> None:
        super().__init__(budget=budget, every_n_steps=every_n_steps, rows=rows, source=source, on_fault=on_fault)
        self._terms: list[str] = []

    def empty(self, device: torch.device) -> LogitSummary:
        """See `Monitor.empty`."""
        return LogitSummary.empty(device=device)

    def summary(
        self, observation: Observation, sample: Observation, terms: Mapping[str, Tensor] | None, *, histograms: bool
    ) -> LogitSummary:
        """See `Monitor.summary`."""
        high, low = observation.extremes
        logits = sample.logits if histograms else None
        summary = LogitSummary.of(sample.statistics, logits, sample.valid & ~sample.bad_target)
        if terms:
            self._terms += [name for name in terms if name not in self._terms]
            summary = summary.with_terms([terms.get(name) for name in self._terms])
        return summary.with_every_row(high, low, observation.valid, observation.bad_target, observation.known)

    def readings(self, state: State, tags: Tags, step: int) -> list[Reading]:
        """See `Monitor.readings`."""
        summary = cast(LogitSummary, state)
        values = _scalars(summary)
        scalars = {tags("logits", name): value for name, value in values.items()}
        terms = summary.terms.mean.tolist()
        scalars |= {tags("losses", n): v for n, v in zip(self._terms, terms, strict=False) if not math.isnan(v)}
        drawn = {
            "histogram": summary.logit_histogram,
            "margin_histogram": summary.margin_histogram,
            "confidence_histogram": summary.confidence_histogram,
            "entropy_histogram": summary.entropy_histogram,
        }
        found = (_histogram(tags("logits", name), histogram, step) for name, histogram in drawn.items())
        return [Scalars(values=scalars, step=step), *(reading for reading in found if reading is not None)]

    def headline(self, state: State, tags: Tags) -> dict[str, float]:
        """See `Monitor.headline`."""
        values = _scalars(cast(LogitSummary, state))
        names = ("max", "norm", "entropy", "confidence", "margin", "nll", "accuracy", "overconfidence", "nonfinite")
        return {tags("logits", name): values[name] for name in names if name in values}

    def rows_in(self, state: State) -> int:
        """See `Monitor.rows_in`."""
        return int(cast(LogitSummary, state).seen)


def _scalars(summary: LogitSummary) -> dict[str, float]:
    """Every scalar of a summary under its name; a mean over no row is left out."""
    means = summary.means()
    values = {
        "max": summary.extrema.maximum.item(),
        "min": summary.extrema.minimum.item(),
        "mean": summary.logits.mean.item(),
        "std": summary.logits.std.item(),
        **means,
        "overconfidence": means["nll"] - means["entropy"],
        "saturation": summary.tied.item() / max(1, int(summary.counted)),
    }
    finite = int(summary.logits.count) > 0
    kept = {n: v for n, v in values.items() if finite and not math.isnan(v)}
    counts = {
        "nonfinite": summary.nonfinite,
        "ignored": summary.ignored,
        "bad_target": summary.bad_target,
        "rows": summary.seen,
    }
    return kept | {name: float(count) for name, count in counts.items()}


def _histogram(tag: str, histogram: LogitHistogram, step: int) -> Histogram | None:
    counts, edges = histogram.buckets(30)
    if not counts:
        return None
    unit, meaning = describe(tag)
    nonfinite = histogram.nan + histogram.positive_infinite + histogram.negative_infinite
    return Histogram(
        tag=tag,
        step=step,
        counts=counts,
        edges=edges,
        minimum=edges[0],
        maximum=edges[-1],
        total=histogram.total.item(),
        squares=histogram.squares.item(),
        nonfinite=int(nonfinite),
        unit=unit,
        meaning=meaning,
    )
