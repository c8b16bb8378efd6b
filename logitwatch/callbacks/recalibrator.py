"""Fits a calibrator to held-out rows of each validation, says what it is worth, and keeps it in the checkpoint."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.temperature import TemperatureScaling
from logitwatch.callbacks.held_out import HeldOut
from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.recalibration import KINDS, Recalibration, carried, recalibrated, restored
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.figures.recalibration import recalibration_figure
from logitwatch.sinks.glossary import describe
from logitwatch.sinks.readings import Alert, Figure, Reading, Scalars, Text
from logitwatch.states.extrema import Extrema
from logitwatch.states.protocol import State

__all__ = ["Recalibrator"]

KEY = "logitwatch.Recalibrator"
# A rise of the ECE that is worth a word.
RISE = 0.005


class Recalibrator(Monitor):
    """Fits a calibrator to the rows of each validation and logs what it does to rows it has not seen.

    A random sample of the validation rows is kept until the validation is over, at most ``max_rows`` and 64 MiB. The
    numbers are cross-fitted: each row is judged by a calibrator fitted to the other folds. What is kept is fitted to
    the whole sample: `calibrator`, which every checkpoint from then on carries.

    Logged, under ``recalibration/val/``: ``nll_before``, ``nll_after`` (nats), ``ece_before``, ``ece_after``,
    ``smooth_ece_before``, ``smooth_ece_after`` (fraction), ``rows``, and ``temperature`` where there is one; with
    matplotlib the picture ``diagram``; the text ``note`` where the rows do not determine what was fitted. The alert
    ``recalibration_tradeoff`` says that the NLL falls and the ECE rises.

    Args:
        calibrator: ``temperature``, ``vector``, ``matrix``, ``platt``, ``isotonic``, ``beta``, ``histogram``, ``bias``,
            or ``best`` for the one of smallest cross-fitted NLL among temperature, vector, bias, beta and none.
        max_rows: Rows of a validation kept at most, over all ranks and data loaders.
        folds: Parts the rows are split into for the numbers.
        source: See `LogitMonitor`.
        on_fault: See `LogitMonitor`.

    Attributes:
        calibrator: The last one fitted, on the CPU; None before the first validation. Apply it to logits.

    Examples:
        >>> Recalibrator(calibrator="vector").calibrator is None
        True
        >>> Recalibrator(folds=1)
        Traceback (most recent call last):
            ...
        ValueError: folds must be >= 2, got 1
    """

    looks_at_training = False

    def __init__(
        self,
        *,
        calibrator: str = "temperature",
        max_rows: int = 10_000,
        folds: int = 5,
        source: str | None = None,
        on_fault: str = "isolate",
    ) -> None:
        super().__init__(source=source, on_fault=on_fault)
        if calibrator not in KINDS:
            raise ValueError(f"calibrator must be one of {', '.join(KINDS)}, got {calibrator!r}")
        if folds < 2:
            raise ValueError(f"folds must be >= 2, got {folds}")
        if max_rows < folds:
            raise ValueError(f"max_rows must be >= folds, {folds}, got {max_rows}")
        self.kind, self.max_rows, self.folds = calibrator, max_rows, folds
        self.calibrator: Calibrator | None = None
        self._held = HeldOut(max_rows)
        self._traded = False

    @staticmethod
    def from_checkpoint(checkpoint: str | os.PathLike[str] | Mapping[str, Any]) -> Calibrator:
        """The calibrator a checkpoint of the Trainer carries, on the CPU.

        Args:
            checkpoint: Path of the file, or what was loaded from it.

        Raises:
            ValueError: If there is none in it.
        """
        loaded: Mapping[str, Any] = (
            checkpoint
            if isinstance(checkpoint, Mapping)
            else torch.load(checkpoint, map_location="cpu", weights_only=True)
        )
        for name, saved in loaded.get("callbacks", {}).items():
            if name.startswith(KEY) and saved.get("memory"):
                return restored(saved["memory"])
        raise ValueError(
            "the checkpoint carries no calibrator: was a Recalibrator among the callbacks of a validation?"
        )

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See `Monitor.setup`; a new fit begins without a calibrator."""
        self._held = HeldOut(self.max_rows)
        if stage == "fit":
            self.calibrator, self._traded = None, False
        super().setup(trainer, pl_module, stage)

    def empty(self, device: torch.device) -> State:
        """See `Monitor.empty`; what it keeps is no state, and small."""
        return Extrema.empty(device=device)

    def summary(
        self, observation: Observation, sample: Observation, terms: Mapping[str, Tensor] | None, *, histograms: bool
    ) -> None:
        """See `Monitor.summary`; draws from the rows of a validation."""
        if observation.stage == "val":
            self._held.add(observation)

    def readings(self, state: State, tags: Tags, step: int) -> list[Reading]:
        """See `Monitor.readings`."""
        return []

    def rows_in(self, state: State) -> int:
        """See `Monitor.rows_in`."""
        return 0

    def concluded(self, tags: Tags, step: int) -> list[Reading]:
        """See `Monitor.concluded`; fits the calibrator."""
        if tags.stage != "val":
            return []
        rows = self._held.gathered()
        if rows is None:
            return []
        try:
            done = recalibrated(self.kind, rows.logits, rows.targets, folds=self.folds)
        except ValueError as error:  # rows no calibrator can be fitted to, as the first of a run may be
            return [Text(tag=tags("recalibration", "note"), step=step, markdown=f"Nothing was fitted: {error}")]
        self.calibrator = done.calibrator
        return self._told(done, tags, step)

    def memory(self) -> dict[str, Any]:
        """See `Monitor.memory`."""
        if self.calibrator is None:
            return {}
        return {**carried(self.calibrator), "traded": self._traded}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """See `Monitor.recall`."""
        if memory:
            self.calibrator, self._traded = restored(memory), memory["traded"]

    def _told(self, done: Recalibration, tags: Tags, step: int) -> list[Reading]:
        values = {"rows": float(done.before.count)}
        for when, sketch in (("before", done.before), ("after", done.after)):
            values[f"nll_{when}"] = sketch.nll().item()
            values[f"ece_{when}"] = sketch.ece().item()
            values[f"smooth_ece_{when}"] = sketch.smooth_ece().item()
        if isinstance(done.calibrator, TemperatureScaling):
            values["temperature"] = float(done.calibrator.temperature)
        readings: list[Reading] = [
            Scalars(values={tags("recalibration", name): value for name, value in values.items()}, step=step)
        ]
        if importlib.util.find_spec("matplotlib") is not None:
            picture = partial(recalibration_figure, done.before, done.after)
            tag = tags("recalibration", "diagram")
            readings.append(Figure(tag=tag, step=step, factory=picture, meaning=describe(tag).meaning))
        if done.notes:
            readings.append(Text(tag=tags("recalibration", "note"), step=step, markdown="\n\n".join(done.notes)))
        return readings + self._tradeoff(values, step)

    def _tradeoff(self, values: dict[str, float], step: int) -> list[Reading]:
        before, self._traded = (
            self._traded,
            (values["nll_after"] < values["nll_before"] and values["ece_after"] > values["ece_before"] + RISE),
        )
        if before or not self._traded:
            return []
        nll, ece = (f"from {values[f'{n}_before']:.4g} to {values[f'{n}_after']:.4g}" for n in ("nll", "ece"))
        text = (
            f"On rows it was not fitted to, the calibrator ({self.kind}) lowers the NLL {nll} nats and raises the ECE "
            f"{ece}. One temperature cannot be right where some rows are over- and others under-confident; the "
            "reliability curve shows which. Try `Recalibrator(calibrator='best')`, or beta or isotonic calibration "
            "with more rows."
        )
        title = "Recalibration lowers the NLL and raises the ECE"
        return [Alert(rule="recalibration_tradeoff", step=step, level="warning", title=title, text=text, values=values)]
