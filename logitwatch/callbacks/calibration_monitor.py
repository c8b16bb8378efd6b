"""Watches whether confidence is kept: calibration error beside what a calibrated model would show, and the curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.readings import Reading, Scalars
from logitwatch.sinks.state_readings import reliability_reading
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.protocol import State

__all__ = ["CalibrationMonitor"]


class CalibrationMonitor(Monitor):
    """Logs calibration while the model trains, validates and tests, from a state of constant size.

    Logged, under ``calibration/<stage>/``: ``ece``, ``null_ece``, ``accuracy``, ``confidence`` (fraction),
    ``brier_score``, ``nll`` (nats), and the curve ``reliability``. An ``ece`` near its ``null_ece`` is no evidence of
    miscalibration. In training the sampled rows of the looks are gathered until there are 256; validation counts
    every row.

    Args:
        num_bins: Equal-width bins of the confidence; numbers that divide 3600 are exact.
        budget: See `LogitMonitor`; the smallest of all monitors counts.
        every_n_steps: See `LogitMonitor`; the smallest of all monitors counts.
        rows: See `LogitMonitor`; the largest of all monitors counts.
        source: See `LogitMonitor`.
        on_fault: See `LogitMonitor`.

    Examples:
        >>> CalibrationMonitor(num_bins=0)
        Traceback (most recent call last):
            ...
        ValueError: num_bins must be >= 1, got 0
    """

    fewest_rows = 256

    def __init__(
        self,
        *,
        num_bins: int = 15,
        budget: float = 0.01,
        every_n_steps: int | None = None,
        rows: int | None = None,
        source: str | None = None,
        on_fault: str = "isolate",
    ) -> None:
        super().__init__(budget=budget, every_n_steps=every_n_steps, rows=rows, source=source, on_fault=on_fault)
        if num_bins < 1:
            raise ValueError(f"num_bins must be >= 1, got {num_bins}")
        self.num_bins = num_bins

    def empty(self, device: torch.device) -> CalibrationSketch:
        """See `Monitor.empty`."""
        return CalibrationSketch.empty(device=device)

    def summary(
        self, observation: Observation, sample: Observation, terms: Mapping[str, Tensor] | None, *, histograms: bool
    ) -> CalibrationSketch | None:
        """See `Monitor.summary`."""
        if sample.targets is None or sample.num_classes < 2:
            return None
        rows = sample.statistics
        return CalibrationSketch.of_rows(rows.confidence, rows.correct, rows.nll, rows.brier, sample.valid)

    def readings(self, state: State, tags: Tags, step: int) -> list[Reading]:
        """See `Monitor.readings`."""
        sketch = cast(CalibrationSketch, state)
        curve = reliability_reading(tags("calibration", "reliability"), sketch, step, num_bins=self.num_bins)
        return [Scalars(values=self._scalars(sketch, tags), step=step), curve]

    def rows_in(self, state: State) -> int:
        """See `Monitor.rows_in`."""
        return int(cast(CalibrationSketch, state).count)

    def _scalars(self, sketch: CalibrationSketch, tags: Tags) -> dict[str, float]:
        values = {
            "ece": sketch.ece(self.num_bins),
            "null_ece": sketch.null_ece(self.num_bins),
            "brier_score": sketch.brier_score(),
            "nll": sketch.nll(),
            "accuracy": sketch.accuracy(),
            "confidence": sketch.mean_confidence(),
        }
        return {tags("calibration", name): value.item() for name, value in values.items()}
