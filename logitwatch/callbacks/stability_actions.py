"""What is done at an alert: what was asked for, at a place where every rank does it."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from typing import Any

from logitwatch.callbacks.faults import StabilityError
from logitwatch.callbacks.step_skipping import StepSkipper
from logitwatch.sinks.readings import Alert

__all__ = ["StabilityActions"]

logger = logging.getLogger("logitwatch")

NAMED = ("warn", "stop", "raise", "checkpoint")
# Which option of the guard an alert belongs to.
OPTIONS = {
    "nonfinite": "on_nonfinite",
    "explosion": "on_explosion",
    "logit_range": "on_explosion",
    "overflow_ahead": "on_explosion",
    "log_partition_drift": "on_drift",
    "loss_spike": "on_spike",
    "entropy_collapse": "on_collapse",
    "dominating_class": "on_collapse",
    "dead_class": "on_collapse",
    "overconfidence": "on_overconfidence",
    "precision": "on_precision",
}


class StabilityActions:
    """The actions of a guard, by option.

    Args:
        options: For each ``on_…`` what to do: ``warn``, ``stop``, ``raise``, ``checkpoint``, the import path of a
            function, or for ``on_nonfinite`` ``skip_step``.

    Raises:
        ValueError: If an action is none of these.

    Examples:
        >>> actions = StabilityActions(on_nonfinite="skip_step", on_spike="raise")
        >>> actions.skips, actions.later
        (True, True)
    """

    def __init__(self, **options: str) -> None:
        for option, action in options.items():
            _check(option, action)
        self._options = options
        self._pending: list[Alert] = []
        self._skipper = StepSkipper()

    @property
    def skips(self) -> bool:
        """Whether steps with a gradient that is not finite are to be skipped."""
        return self._options.get("on_nonfinite") == "skip_step"

    @property
    def later(self) -> bool:
        """Whether there may be something to do at the end of a batch."""
        return any(action not in ("warn", "skip_step", "stop") for action in self._options.values())

    def raised(self, alert: Alert, trainer: Any) -> None:
        """Take up an alert: stop the run at once, which lets this step end, and the rest with `act`."""
        action = self._action(alert)
        if action == "stop" and trainer is not None:
            trainer.should_stop = True
            logger.warning("logitwatch: the run is stopped at step %d: %s", alert.step, alert.title)
        elif action not in ("warn", "stop", "skip_step"):
            self._pending.append(alert)

    def act(self, trainer: Any, module: Any) -> None:
        """Do what is pending: the calls first, then checkpoints, and an exception last."""
        pending, self._pending = self._pending, []
        for alert in pending:
            action = self._action(alert)
            if action == "checkpoint":
                _checkpoint(trainer, alert)
            elif action != "raise":
                _imported(action)(trainer, module, alert)
        for alert in pending:
            if self._action(alert) == "raise":
                raise StabilityError(f"step {alert.step}: {alert.title}. {alert.text}")

    def before_step(self, optimizer: Any) -> None:
        """See `StepSkipper.before`."""
        self._skipper.before(optimizer)

    def skipped(self) -> int:
        """See `StepSkipper.skipped`."""
        return self._skipper.skipped()

    def restart(self, skipped: int = 0) -> None:
        """Nothing is pending; see `StepSkipper.restart`."""
        self._pending = []
        self._skipper.restart(skipped)

    def _action(self, alert: Alert) -> str:
        return self._options.get(OPTIONS[alert.rule], "warn")


def _check(option: str, action: str) -> None:
    if action in NAMED or (action == "skip_step" and option == "on_nonfinite"):
        return
    if isinstance(action, str) and "." in action and all(part.isidentifier() for part in action.split(".")):
        return
    skip = ", skip_step" if option == "on_nonfinite" else ""
    expected = f"{', '.join(NAMED)}{skip} or the import path of a function"
    raise ValueError(f"{option} must be {expected}, got {action!r}")


def _imported(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _checkpoint(trainer: Any, alert: Alert) -> None:
    """On every rank, beside the logs."""
    folder = trainer.log_dir or trainer.default_root_dir
    path = os.path.join(folder, "logitwatch", f"{alert.rule}-step={alert.step}.ckpt")
    trainer.save_checkpoint(path)
    logger.warning("logitwatch: %s. The checkpoint is %s", alert.title, path)
