"""Rows whose classes are split over ranks: kept in shards at each look, put together when all ranks report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.reduction import agreed, rank, world_size
from logitwatch.callbacks.reporter import Reporter
from logitwatch.capture.observation import Observation
from logitwatch.capture.sharding import is_distributed
from logitwatch.capture.split_rows import whole_observation
from logitwatch.functional.sharded_rows import SplitRows
from logitwatch.states.logit_summary import LogitSummary
from logitwatch.states.protocol import State
from logitwatch.states.sharded_rows import ShardedRows, WholeRows, fitting_capacity

__all__ = ["SplitWindows"]

# Rows kept of a training window and of an evaluation epoch.
TRAINING_ROWS, EVALUATION_ROWS = 256, 4096


class SplitWindows:
    """What this rank's shards say of the rows since the last report, by stage, data loader and source asked for.

    Every rank of a group keeps the same rows, by keys that are drawn from a number of the look: `number` is asked for
    at the beginning of each look, and begins anew at each report, so that a rank which missed one is soon in step.

    Args:
        module: Its parameters say whether any rank may have split rows.
        faults: Where rows that cannot be put together are counted.
    """

    def __init__(self, module: Any, faults: Faults) -> None:
        self._module, self._faults = module, faults
        self._states: dict[tuple[str, int, str | None], ShardedRows] = {}
        self._rows: Counter[tuple[str, int, str | None]] = Counter()
        self._expected: dict[str, bool] = {}
        self._looks = 0

    def number(self, step: int) -> int:
        """A number of this look of this step, the same on all ranks that look as often."""
        self._looks += 1
        return (step << 24) + self._looks

    def add(self, rows: SplitRows, stage: str, loader: int, asked: str | None, seed: int) -> int:
        """Keep a sample of the rows of a call; gives by how many rows the sample has grown."""
        key, ranks = (stage, loader, asked), world_size()
        window = self._states.get(key) or self._empty(stage, rows.logits.device)
        room = window.rows.shape[1]
        more = ShardedRows.of(rows, rank=rank(), ranks=ranks, capacity=room, seed=seed)
        self._states[key] = window.merge(more)
        grown = min(len(rows.logits), max(0, room - self._rows[key]))
        self._rows[key] += len(rows.logits)
        return grown

    def on_their_way(
        self, monitors: Sequence[Reporter], stage: str, loaders: int, device: torch.device
    ) -> list[tuple[State, State]]:
        """What is to be reduced with the other states, each with an empty one; the same number on every rank.

        Ranks ask one another whether any has split rows, until one has, in a collective of its own. A module without
        spread parameters, which is the same on all ranks, has none, and nobody is asked.
        """
        if not self._expected.get(stage):
            here = any(key[0] == stage for key in self._states)
            if world_size() == 1 or not self._spread:
                if here:
                    self._faults.attempt("capture", _refuse_without_spread_parameters, otherwise=None)
                return []
            self._expected[stage] = agreed((int(here), 0), device)[0] > 0
            if not self._expected[stage]:
                return []
        empty = self._empty(stage, device)
        keys = [(stage, loader, asked) for asked in _asked(monitors) for loader in range(loaders)]
        return [(self._states.get(key, empty), empty) for key in keys]

    def joined(
        self, whole: Sequence[State], monitors: Sequence[Reporter], stage: str, loaders: int
    ) -> dict[tuple[Reporter, int], State]:
        """What each monitor says of the rows of all ranks, from the reduced states of `on_their_way`."""
        states = iter(whole)
        found: dict[tuple[Reporter, int], State] = {}
        for asked in _asked(monitors):
            for loader in range(loaders):
                state = next(states, None)
                rows = None if state is None else self._faults.attempt("capture", _assembled, state, otherwise=None)
                if rows is None:
                    continue
                self._faults.attempt("capture", _require_none_lost, rows, otherwise=None)
                for monitor in monitors:
                    if monitor.source == asked and self._faults.armed(type(monitor).__name__):
                        summary = partial(_summary, monitor, rows, stage=stage, source=asked or "observe")
                        more = self._faults.attempt(type(monitor).__name__, summary, otherwise=None)
                        if more is not None:
                            found[monitor, loader] = more
        return found

    def clear(self, stage: str) -> None:
        """Begin the windows of a stage anew."""
        for key in [key for key in self._states if key[0] == stage]:
            del self._states[key], self._rows[key]
        self._looks = 0

    @cached_property
    def _spread(self) -> bool:
        return self._module is not None and any(is_distributed(p) for p in self._module.parameters())

    def _empty(self, stage: str, device: torch.device) -> ShardedRows:
        ranks = world_size()
        rows = TRAINING_ROWS if stage == "train" else EVALUATION_ROWS
        return ShardedRows.empty(ranks, fitting_capacity(rows, ranks), device=device)


def _asked(monitors: Sequence[Reporter]) -> list[str | None]:
    """The sources monitors ask for, None for the primary one, in an order that is the same on all ranks."""
    return list(dict.fromkeys(monitor.source for monitor in monitors))


def _assembled(state: State) -> WholeRows | None:
    assert isinstance(state, ShardedRows)
    found = state.assembled()
    return found if found.counts[0] else None


def _summary(monitor: Reporter, found: WholeRows, *, stage: str, source: str) -> State | None:
    """What a monitor makes of the whole rows; counts and extremes are those of all rows, not of the sample."""
    seen: Observation = whole_observation(
        found.rows, found.targets, found.valid, found.num_classes, stage=stage, source=source
    )
    state = monitor.summary(seen, seen, None, histograms=False)
    if isinstance(state, LogitSummary):
        rows, nonfinite, ignored, bad_target = found.counts
        counts = {"seen": rows, "nonfinite": nonfinite, "ignored": ignored, "bad_target": bad_target}
        return replace(state, extrema=found.extrema, **counts)
    return state


def _require_none_lost(found: WholeRows) -> None:
    if found.lost:
        raise RuntimeError(f"expected each rank of a group to keep the same rows, {found.lost} were kept by some only")


def _refuse_without_spread_parameters() -> None:
    raise ValueError(
        "logits with classes split over ranks are read only where the module has DTensor parameters; gather a few rows "
        "and hand them over: logitwatch.observe(logits[:64].full_tensor(), targets[:64])"
    )
