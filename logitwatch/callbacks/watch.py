"""The one line."""

from __future__ import annotations

from typing import Any

from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.stability_guard import StabilityGuard

__all__ = ["watch"]


def watch(
    *, budget: float = 0.01, every_n_steps: int | None = None, rows: int | None = None, source: str | None = None
) -> list[Monitor]:
    """The monitors most runs want, as a list of callbacks: ``Trainer(callbacks=logitwatch.watch())``.

    Args:
        budget: Largest fraction of training-step time the suite may cost.
        every_n_steps: Optimizer steps between looks; chosen from the budget where None.
        rows: Rows of a training step whose distribution is taken; chosen where None.
        source: Name of the criterion, function or submodule to follow; found where None.

    Returns:
        A `LogitMonitor`, a `CalibrationMonitor`, and a `StabilityGuard` that only tells. They share one tap, one
        cadence and one budget.

    Examples:
        >>> [type(monitor).__name__ for monitor in watch()]
        ['LogitMonitor', 'CalibrationMonitor', 'StabilityGuard']
    """
    options: dict[str, Any] = {"budget": budget, "every_n_steps": every_n_steps, "rows": rows, "source": source}
    return [LogitMonitor(**options), CalibrationMonitor(**options), StabilityGuard(**options)]
