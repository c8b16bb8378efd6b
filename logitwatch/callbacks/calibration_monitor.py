"""Watches whether confidence is kept: calibration error beside what a calibrated model would show, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from logitwatch.callbacks.calibration_history import CalibrationHistory, Validation
from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.glossary import describe
from logitwatch.sinks.readings import Reading, Scalars, Table
from logitwatch.sinks.state_readings import reliability_reading
from logitwatch.states.calibration_evidence import CalibrationEvidence
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.calibration_summary import CalibrationSummary
from logitwatch.states.position_calibration import PositionCalibration
from logitwatch.states.protocol import State
from logitwatch.states.temperature_grid import TemperatureGrid

__all__ = ["CalibrationMonitor"]

# Logits of a validation batch that temperatures are tried on: a few milliseconds. All temperatures take five times as
# long as those within a factor of three of the last one.
NEAR, NEAR_ELEMENTS, ALL_ELEMENTS, FEWEST_ROWS = 3.0, 2**16, 2**14, 8


class CalibrationMonitor(Monitor):
    """Logs calibration while the model trains, validates and tests, from a state of constant size.

    Logged, under ``calibration/<stage>/``: ``ece``, ``null_ece``, ``accuracy``, ``confidence``, ``gap`` (fraction),
    ``brier_score``, ``nll`` (nats), and the curve ``reliability``. An ``ece`` near its ``null_ece`` is no evidence of
    miscalibration. In training the sampled rows of the looks are gathered until there are 256; validation counts
    every row.

    After a validation or test also ``adaptive_ece``, ``debiased_ece``, ``smooth_ece``, ``ks_error``, ``aurc``
    (fraction), ``temperature`` (the best one, where there is one), ``refinement`` (nats, NLL at that temperature: what
    no recalibration removes, and what to monitor with ``EarlyStopping``), ``train_gap`` (fraction, the gap less
    that of the training rows since the last validation), and of ``[batch, sequence, classes]`` the table ``positions``:
    calibration by position in the sequence. After validations the alerts ``calibration_overfitting`` and
    ``miscalibration``; see `CalibrationHistory`.

    Args:
        num_bins: Equal-width bins of the confidence; numbers that divide 3600 are exact.
        alpha: Probability that a calibrated model ever raises the alert ``miscalibration``, however often it is
            validated.
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
        alpha: float = 0.05,
        budget: float = 0.01,
        every_n_steps: int | None = None,
        rows: int | None = None,
        source: str | None = None,
        on_fault: str = "isolate",
    ) -> None:
        super().__init__(budget=budget, every_n_steps=every_n_steps, rows=rows, source=source, on_fault=on_fault)
        if num_bins < 1:
            raise ValueError(f"num_bins must be >= 1, got {num_bins}")
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must be in (0, 1), got {alpha}")
        self.num_bins, self.alpha = num_bins, alpha
        self._history = CalibrationHistory(alpha=alpha)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See `Monitor.setup`; the validations of another run are forgotten."""
        self._history = CalibrationHistory(alpha=self.alpha)
        super().setup(trainer, pl_module, stage)

    def empty(self, device: torch.device) -> CalibrationSummary:
        """See `Monitor.empty`."""
        return CalibrationSummary.empty(device=device)

    def summary(
        self, observation: Observation, sample: Observation, terms: Mapping[str, Tensor] | None, *, histograms: bool
    ) -> CalibrationSummary | None:
        """See `Monitor.summary`."""
        if sample.targets is None or sample.num_classes < 2:
            return None
        rows = sample.statistics
        sketch = CalibrationSketch.of_rows(rows.confidence, rows.correct, rows.nll, rows.brier, sample.valid)
        nothing = self.empty(sample.valid.device)
        if sample.stage == "train":
            return replace(nothing, sketch=sketch)
        return CalibrationSummary(
            sketch,
            self._temperatures(sample) or nothing.temperatures,
            CalibrationEvidence.of_rows(rows.confidence, rows.correct, sample.valid & ~sample.bad_target),
            _positions(sample) or nothing.positions,
        )

    def readings(self, state: State, tags: Tags, step: int) -> list[Reading]:
        """See `Monitor.readings`."""
        summary = cast(CalibrationSummary, state)
        values = _scalars(summary.sketch, self.num_bins)
        curve = reliability_reading(tags("calibration", "reliability"), summary.sketch, step, num_bins=self.num_bins)
        alerts: list[Reading] = []
        if tags.stage == "train":
            self._history.trained(self.rows_in(state), values["gap"])
        else:
            values |= _epoch_scalars(summary, self.num_bins)
            values["train_gap"] = values["gap"] - self._history.train_gap
            if tags.stage == "val" and self.rows_in(state):
                alerts += self._history.validated(_validation(tags, step, summary, values))
        scalars = {tags("calibration", name): value for name, value in values.items() if not math.isnan(value)}
        tables = _table(tags("calibration", "positions"), step, summary.positions)
        return [Scalars(values=scalars, step=step), curve, *tables, *alerts]

    def rows_in(self, state: State) -> int:
        """See `Monitor.rows_in`."""
        return int(cast(CalibrationSummary, state).sketch.count)

    def _temperatures(self, sample: Observation) -> TemperatureGrid | None:
        """Sums over temperatures of a few rows; None where none has logits."""
        last = self._history.temperature
        span = None if math.isnan(last) else (last / NEAR, last * NEAR)
        elements = ALL_ELEMENTS if span is None else NEAR_ELEMENTS
        few = sample.sample(max(FEWEST_ROWS, elements // sample.num_classes))
        logits, targets = few.logits, few.targets
        assert targets is not None
        if logits.device != few.valid.device:  # rows put together from shards have no logits
            return None
        if few.binary:
            yes = targets.to(torch.promote_types(logits.dtype, torch.float32))
            logits = torch.cat((torch.zeros_like(logits), logits), dim=-1)
            targets = torch.stack((1 - yes, yes), dim=-1)
        return TemperatureGrid.of_rows(logits, targets, few.valid & ~few.bad_target, span=span)

    def memory(self) -> dict[str, Any]:
        """See `Monitor.memory`."""
        return self._history.state_dict()

    def recall(self, memory: Mapping[str, Any]) -> None:
        """See `Monitor.recall`."""
        self._history.load_state_dict(memory)


def _positions(sample: Observation) -> PositionCalibration | None:
    """Rows by their position in a sequence, where they came as ``[batch, sequence, classes]``."""
    if len(sample.leading_shape) != 2 or sample.binary:
        return None
    rows = sample.statistics
    position = torch.arange(sample.leading_shape[1], device=rows.nll.device).expand(sample.leading_shape).reshape(-1)
    return PositionCalibration.of_rows(position, rows.confidence, rows.correct, rows.nll, sample.valid)


def _table(tag: str, step: int, positions: PositionCalibration) -> list[Reading]:
    """One line for each bucket of positions that has rows; nothing where nothing is a sequence."""
    columns = {
        "from position": torch.tensor(positions.first_positions()),
        "rows": positions.count,
        "nll": positions.nll(),
        "accuracy": positions.accuracy(),
        "gap": positions.gap(),
        "ece": positions.ece(),
    }
    there = positions.count > 0
    lines = list(zip(*(column[there].tolist() for column in columns.values()), strict=True))
    table = Table(tag=tag, step=step, columns=list(columns), rows=lines, meaning=describe(tag).meaning)
    return [table] if lines else []


def _scalars(sketch: CalibrationSketch, num_bins: int) -> dict[str, float]:
    confidence, accuracy = sketch.mean_confidence(), sketch.accuracy()
    values = {
        "ece": sketch.ece(num_bins),
        "null_ece": sketch.null_ece(num_bins),
        "brier_score": sketch.brier_score(),
        "nll": sketch.nll(),
        "accuracy": accuracy,
        "confidence": confidence,
        "gap": confidence - accuracy,
    }
    return {name: value.item() for name, value in values.items()}


def _epoch_scalars(summary: CalibrationSummary, num_bins: int) -> dict[str, float]:
    """What takes milliseconds, and is worth them once an epoch."""
    sketch = summary.sketch
    values = {
        "adaptive_ece": sketch.adaptive_ece(num_bins),
        "debiased_ece": sketch.debiased_ece(num_bins),
        "smooth_ece": sketch.smooth_ece(),
        "ks_error": sketch.ks_error(),
        "aurc": sketch.aurc(),
        "temperature": summary.temperatures.temperature(),
    }
    return {name: value.item() for name, value in values.items()} | {"refinement": summary.refinement()}


def _validation(tags: Tags, step: int, summary: CalibrationSummary, values: Mapping[str, float]) -> Validation:
    where = tags("calibration", "").removeprefix("calibration/").replace("//", "/").rstrip("/")
    log_e = summary.evidence.log_e_value().item()
    names = ("nll", "refinement", "temperature", "confidence", "accuracy")
    said = {name: values[name] for name in names}
    return Validation(where=where, step=step, rows=int(summary.sketch.count), log_e=log_e, **said)
