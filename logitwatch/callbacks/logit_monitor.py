"""Watches what the logits are: range, spread, entropy, margin, and how they fare against the targets."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.readings import Reading, Scalars
from logitwatch.sinks.state_readings import histogram_reading
from logitwatch.states.logit_summary import MOST_TERMS, LogitSummary
from logitwatch.states.protocol import State

__all__ = ["LogitMonitor"]

logger = logging.getLogger("logitwatch")


class LogitMonitor(Monitor):
    """Logs the range, spread and certainty of a model's logits while it trains, validates and tests.

    Logged, under ``logits/<stage>/``: ``max``, ``min``, ``mean``, ``std``, ``norm`` (logit); ``log_partition``,
    ``entropy``, ``margin``, ``nll``, ``overconfidence`` (nats); ``confidence``, ``accuracy``, ``saturation``
    (fraction); ``nonfinite``, ``ignored``, ``bad_target``, ``rows`` (rows); and the histograms ``histogram``,
    ``margin_histogram``, ``confidence_histogram``, ``entropy_histogram``. Terms of a loss of ours go to
    ``losses/<stage>/<term>``, and beside them what the loss tells of itself: with a soft cap ``soft_cap_saturation``
    (fraction). The suite's own cost goes to ``logitwatch/``.

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

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See `Monitor.setup`; the terms of another run's loss are forgotten."""
        self._terms = []
        super().setup(trainer, pl_module, stage)

    def empty(self, device: torch.device) -> LogitSummary:
        """See `Monitor.empty`."""
        return LogitSummary.empty(device=device)

    def summary(
        self, observation: Observation, sample: Observation, terms: Mapping[str, Tensor] | None, *, histograms: bool
    ) -> LogitSummary:
        """See `Monitor.summary`."""
        high, low = observation.extremes
        shown = sample.shown if histograms else None
        summary = LogitSummary.of(
            sample.statistics,
            None if shown is None else shown.logits,
            sample.valid & ~sample.bad_target,
            shown=None
            if shown is None or shown is sample
            else shown.statistics.finite & shown.valid & ~shown.bad_target,
        )
        if terms:
            self._name_terms(terms)
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
        found = (histogram_reading(tags("logits", name), histogram, step) for name, histogram in drawn.items())
        return [Scalars(values=scalars, step=step), *(reading for reading in found if reading is not None)]

    def rows_in(self, state: State) -> int:
        """See `Monitor.rows_in`."""
        return int(cast(LogitSummary, state).seen)

    def _name_terms(self, terms: Mapping[str, Tensor]) -> None:
        """Give each new term a place, as long as there are places; say once which have none."""
        new = [name for name in terms if name not in self._terms]
        self._terms += new
        if new and len(self._terms) > MOST_TERMS:
            logger.warning("logitwatch: of the terms of the loss %d are followed, not %s", MOST_TERMS, new)


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
    # A range nobody was in, or a mean over no row, is not a number.
    kept = {n: v for n, v in values.items() if not math.isnan(v) and not (n in ("max", "min") and math.isinf(v))}
    if int(summary.counted) == 0:
        del kept["saturation"]
    counts = {
        "nonfinite": summary.nonfinite,
        "ignored": summary.ignored,
        "bad_target": summary.bad_target,
        "rows": summary.seen,
    }
    return kept | {name: float(count) for name, count in counts.items()}
