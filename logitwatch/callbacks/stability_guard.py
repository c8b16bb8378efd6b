"""Watches for what ends runs, and says why, what to do, and where asked acts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.stability_actions import StabilityActions
from logitwatch.callbacks.stability_history import StabilityHistory
from logitwatch.callbacks.stability_window import Window
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.readings import Reading, Scalars
from logitwatch.states.look_series import PLACES
from logitwatch.states.protocol import State
from logitwatch.states.stability_summary import StabilitySummary

__all__ = ["StabilityGuard"]


class StabilityGuard(Monitor):
    """Raises an alert where a run is about to fail or has begun to, with the likely cause and what to do.

    Rules, each an alert of its name, once in an episode: ``nonfinite``; ``explosion``, a quarter of the range of the
    type of the logits; ``overflow_ahead``, a forecast of that; ``logit_range``, growth of the largest logit;
    ``log_partition_drift``; ``loss_spike``; ``entropy_collapse``, certain and wrong; ``overconfidence``, in evaluation;
    ``dominating_class``, ``dead_class``; ``precision``, predictions decided by rounding. Those on the course of
    training learn a baseline in their first 128 looks, and anew where the learning rate jumps; chance raises one alert
    of theirs in ``1 / false_alarms`` steps.

    Logged, under ``stability/<stage>/``: ``absmax``; ``range_used``, a fraction of what the type of the logits holds;
    ``near_ties``, the share of rows whose two largest logits are neighbours in it; ``top_class``, the share of the rows
    that the class predicted most has; ``skipped_steps``.

    What is done at an alert is up to you: ``warn``, which is to tell; ``stop``, which lets the Trainer end as an early
    stop does; ``raise``, a `StabilityError`; ``checkpoint``, at the end of the step; or the import path of a function,
    as ``my.module.on_alert``, called with the Trainer, the module and the alert. ``skip_step`` of ``on_nonfinite``
    looks at the gradients of every step and leaves weights and optimizer as they are where one is not finite.
    Everything is decided on reduced numbers, so ranks act alike.

    Args:
        on_nonfinite: What to do at ``nonfinite``.
        on_explosion: At ``explosion``, ``overflow_ahead`` and ``logit_range``.
        on_drift: At ``log_partition_drift``.
        on_spike: At ``loss_spike``.
        on_collapse: At ``entropy_collapse``, ``dominating_class`` and ``dead_class``.
        on_overconfidence: At ``overconfidence``.
        on_precision: At ``precision``.
        false_alarms: Alarms a step that chance may raise.
        class_names: Names of the classes, for the texts.
        budget: See `LogitMonitor`; the smallest of all monitors counts.
        every_n_steps: See `LogitMonitor`; the smallest of all monitors counts.
        rows: See `LogitMonitor`; the largest of all monitors counts.
        source: See `LogitMonitor`.
        on_fault: See `LogitMonitor`.

    Examples:
        >>> StabilityGuard(on_nonfinite="skip_step", on_explosion="stop").on_explosion
        'stop'
        >>> StabilityGuard(on_spike="skip_step")
        Traceback (most recent call last):
            ...
        ValueError: on_spike must be warn, stop, raise, checkpoint or the import path of a function, got 'skip_step'
    """

    def __init__(
        self,
        *,
        on_nonfinite: str = "warn",
        on_explosion: str = "warn",
        on_drift: str = "warn",
        on_spike: str = "warn",
        on_collapse: str = "warn",
        on_overconfidence: str = "warn",
        on_precision: str = "warn",
        false_alarms: float = 1e-4,
        class_names: Sequence[str] | None = None,
        budget: float = 0.01,
        every_n_steps: int | None = None,
        rows: int | None = None,
        source: str | None = None,
        on_fault: str = "isolate",
    ) -> None:
        super().__init__(budget=budget, every_n_steps=every_n_steps, rows=rows, source=source, on_fault=on_fault)
        if not 0 < false_alarms < 1:
            raise ValueError(f"false_alarms must be in (0, 1), got {false_alarms}")
        self.on_nonfinite, self.on_explosion, self.on_drift = on_nonfinite, on_explosion, on_drift
        self.on_spike, self.on_collapse, self.on_precision = on_spike, on_collapse, on_precision
        self.on_overconfidence, self.false_alarms = on_overconfidence, false_alarms
        self.class_names = None if class_names is None else list(class_names)
        self._actions = StabilityActions(
            on_nonfinite=on_nonfinite,
            on_explosion=on_explosion,
            on_drift=on_drift,
            on_spike=on_spike,
            on_collapse=on_collapse,
            on_overconfidence=on_overconfidence,
            on_precision=on_precision,
        )
        self._last, self._stride = 0, 1  # step of the last report, steps a place
        self._forget()
        # Hooks of every batch are there for who needs them.
        for hook, needed in (
            ("on_before_optimizer_step", self._actions.skips),
            ("on_train_batch_end", self._actions.later),
            ("on_validation_end", self._actions.later),
            ("on_test_end", self._actions.later),
        ):
            if not needed:
                setattr(self, hook, None)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See `Monitor.setup`; another run is forgotten."""
        self._forget()
        self._stride = max(1, math.ceil((trainer.log_every_n_steps or 1) / PLACES))
        super().setup(trainer, pl_module, stage)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Keep what is not finite from the weights, where asked."""
        self._actions.before_step(optimizer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Do what an alert of this step asks for."""
        self._actions.act(trainer, pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Do what an alert of the validation asks for."""
        self._actions.act(trainer, pl_module)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Do what an alert of the test asks for."""
        self._actions.act(trainer, pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See `Monitor.teardown`; optimizers are left as they were."""
        self._actions.restart(self._actions.skipped())

    def empty(self, device: torch.device) -> StabilitySummary:
        """See `Monitor.empty`."""
        return StabilitySummary.empty(device=device)

    def summary(
        self, observation: Observation, sample: Observation, terms: Mapping[str, Tensor] | None, *, histograms: bool
    ) -> StabilitySummary:
        """See `Monitor.summary`."""
        return StabilitySummary.of(
            sample.statistics,
            sample.targets,
            sample.valid & ~sample.bad_target,
            num_classes=sample.num_classes,
            dtype=observation.dtype,
            step=sample.step,
            place=sample.step // self._stride,
            extremes=observation.extremes,
        )

    def readings(self, state: State, tags: Tags, step: int) -> list[Reading]:
        """See `Monitor.readings`."""
        first, since = self._last // self._stride, step - self._last
        if tags.stage == "train":
            self._last = step
        window = Window.of(cast(StabilitySummary, state), stage=tags.stage, loader=tags.loader, step=step, first=first)
        values = _scalars(window)
        if self._actions.skips and tags.stage == "train":
            values["skipped_steps"] = float(self._actions.skipped())
        alerts = self._history.reported(window, steps=since, learning_rate=self._learning_rate())
        for alert in alerts:
            self._actions.raised(alert, self._trainer())
        return [Scalars(values={tags("stability", n): v for n, v in values.items()}, step=step), *alerts]

    def rows_in(self, state: State) -> int:
        """See `Monitor.rows_in`."""
        return int(cast(StabilitySummary, state).seen)

    def memory(self) -> dict[str, Any]:
        """See `Monitor.memory`."""
        return {"history": self._history.state_dict(), "last": self._last, "skipped": self._actions.skipped()}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """See `Monitor.recall`."""
        self._history.load_state_dict(memory["history"])
        self._last = int(memory["last"])
        self._actions.restart(int(memory["skipped"]))

    def _forget(self) -> None:
        self._history = StabilityHistory(self.false_alarms, self.class_names)
        self._actions.restart()
        self._last, self._stride = 0, 1

    def _trainer(self) -> Any:
        return None if self._session is None else self._session.trainer

    def _learning_rate(self) -> float:
        """Of the first parameter group of the first optimizer, equal on every rank; NaN where there is none."""
        groups = [group for optimizer in getattr(self._trainer(), "optimizers", []) for group in optimizer.param_groups]
        return float(groups[0].get("lr", math.nan)) if groups else math.nan


def _scalars(window: Window) -> dict[str, float]:
    values: dict[str, float] = {}
    if math.isfinite(window.absmax):
        values |= {"absmax": window.absmax, "range_used": window.absmax / window.largest}
    if window.counted:
        values["near_ties"] = window.near_tied / window.counted
    if sum(window.predicted):
        values["top_class"] = max(window.predicted) / sum(window.predicted)
    return values
