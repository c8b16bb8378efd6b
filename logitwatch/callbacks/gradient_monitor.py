"""Watches how hard the loss pulls at the logits: at which rows, and how unevenly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.readings import Reading, Scalars
from logitwatch.sinks.state_readings import histogram_reading
from logitwatch.states.gradient_summary import GradientSummary
from logitwatch.states.protocol import State

__all__ = ["GradientMonitor"]


class GradientMonitor(Monitor):
    """Logs the gradient of the cross-entropy on the logits, in closed form from the forward pass alone.

    Logged, under ``gradients/<stage>/``: ``norm``, the mean over rows of the Euclidean norm of the probabilities less
    the target, in ``[0, 1.42]``, and its ``histogram``; ``vanishing``, the share of rows that hardly teach any more;
    ``hardest_tenth``, the share of all norms that a tenth of the rows holds. They are of plain cross-entropy, whatever
    else is in the loss.

    Args:
        bound: Norm below which the gradient of a row has vanished. At 0.01 the target has a probability above 0.99.
        budget: See `LogitMonitor`; the smallest of all monitors counts.
        every_n_steps: See `LogitMonitor`; the smallest of all monitors counts.
        rows: See `LogitMonitor`; the largest of all monitors counts.
        source: See `LogitMonitor`.
        on_fault: See `LogitMonitor`.

    Examples:
        >>> GradientMonitor(bound=0.0)
        Traceback (most recent call last):
            ...
        ValueError: bound must be > 0, got 0.0
    """

    def __init__(
        self,
        *,
        bound: float = 0.01,
        budget: float = 0.01,
        every_n_steps: int | None = None,
        rows: int | None = None,
        source: str | None = None,
        on_fault: str = "isolate",
    ) -> None:
        super().__init__(budget=budget, every_n_steps=every_n_steps, rows=rows, source=source, on_fault=on_fault)
        if not bound > 0:
            raise ValueError(f"bound must be > 0, got {bound}")
        self.bound = bound

    def empty(self, device: torch.device) -> GradientSummary:
        """See `Monitor.empty`."""
        return GradientSummary.empty(device=device)

    def summary(
        self, observation: Observation, sample: Observation, terms: Mapping[str, Tensor] | None, *, histograms: bool
    ) -> GradientSummary:
        """See `Monitor.summary`."""
        rows = sample.statistics
        # A yes-or-no logit is one of two classes in name only: the other one has no logit to pull at.
        norm = rows.gradient_norm / math.sqrt(2) if sample.binary else rows.gradient_norm
        counted = rows.finite & sample.valid & ~sample.bad_target
        return GradientSummary.of(norm, rows.correct, counted, bound=self.bound)

    def readings(self, state: State, tags: Tags, step: int) -> list[Reading]:
        """See `Monitor.readings`."""
        summary = cast(GradientSummary, state)
        values = {
            "norm": summary.norm(),
            "vanishing": summary.vanishing(),
            "hardest_tenth": summary.hardest(),
        }
        numbers = {tags("gradients", name): value.item() for name, value in values.items()}
        scalars = Scalars(values={tag: value for tag, value in numbers.items() if not math.isnan(value)}, step=step)
        histogram = histogram_reading(tags("gradients", "histogram"), summary.norms, step)
        return [scalars] if histogram is None else [scalars, histogram]

    def rows_in(self, state: State) -> int:
        """See `Monitor.rows_in`."""
        return int(cast(GradientSummary, state).seen)
