"""States that are being gathered: one for each monitor, stage and data loader."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from logitwatch.callbacks.reduction import reduced
from logitwatch.callbacks.reporter import Reporter
from logitwatch.states.protocol import Packed, State, pack, unpack

__all__ = ["Windows"]

logger = logging.getLogger("logitwatch")

SCHEMA = 1


class Windows:
    """What has been seen since it was last reported."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str, int], State] = {}

    def add(self, monitor: Reporter, stage: str, loader: int, state: State | None) -> None:
        """Merge one more state into a window."""
        if state is None:
            return
        key = (monitor.state_key, stage, loader)
        window = self._states.get(key)
        self._states[key] = state if window is None else window.merge(state)

    def clear(self, monitor: Reporter, stage: str, loader: int = 0) -> None:
        """Begin a window anew."""
        self._states.pop((monitor.state_key, stage, loader), None)

    def merged(
        self, monitors: Sequence[Reporter], stage: str, loaders: int, device: torch.device
    ) -> dict[tuple[Reporter, int], State]:
        """The windows of a stage over all ranks, on the CPU. Order and sizes are the same on every rank."""
        keys = [(monitor, loader) for monitor in monitors for loader in range(loaders)]
        states = [self._states.get((m.state_key, stage, loader)) or m.empty(device) for m, loader in keys]
        return dict(zip(keys, reduced(states, device), strict=True))

    def saved(self, monitor: Reporter) -> dict[str, Any]:
        """The training window of a monitor as plain tensors for a checkpoint."""
        window = self._states.get((monitor.state_key, "train", 0))
        if window is None:
            return {"schema": SCHEMA}
        sums, maxima = pack(window)
        return {"schema": SCHEMA, "sums": sums.cpu().clone(), "maxima": maxima.cpu().clone()}

    def restore(self, monitor: Reporter, saved: dict[str, Any], device: torch.device) -> None:
        """Go on with a saved training window; one of another schema is left alone, with a warning."""
        if saved.get("schema") != SCHEMA:
            logger.warning(
                "logitwatch: saved state of schema %s is not %d: starting afresh", saved.get("schema"), SCHEMA
            )
        elif "sums" in saved:
            packed = Packed(saved["sums"].to(device), saved["maxima"].to(device))
            self._states[monitor.state_key, "train", 0] = unpack(monitor.empty(device), packed)
