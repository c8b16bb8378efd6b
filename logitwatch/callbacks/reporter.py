"""What a monitor says, free of Lightning: a state for each look, and readings of the merged state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from logitwatch.callbacks.tags import Tags
from logitwatch.capture.look import Look
from logitwatch.capture.observation import Observation
from logitwatch.sinks.readings import Reading
from logitwatch.states.protocol import State

__all__ = ["Reporter"]


class Reporter(ABC):
    """What one look is worth (`summary`), and how the merge of looks reads (`readings`).

    Attributes:
        fewest_rows: Rows a training window must hold before it is reported; with fewer it goes on growing.
        looks_at_training: Whether its options are to choose the cadence of looks at training steps.
        state_key: Name of this monitor in checkpoints, distinct for distinct sources.
        saved: What a checkpoint brought, until the first training step reads it.
    """

    fewest_rows: ClassVar[int] = 1
    looks_at_training: ClassVar[bool] = True
    state_key: str
    budget: float
    every_n_steps: int | None
    rows: int | None
    source: str | None
    on_fault: str
    saved: dict[str, Any]

    @abstractmethod
    def empty(self, device: torch.device) -> State:
        """The state of having seen nothing."""

    @abstractmethod
    def summary(
        self, observation: Observation, sample: Observation, terms: Mapping[str, Tensor] | None, *, histograms: bool
    ) -> State | None:
        """The state of one observation; None where it has nothing to say.

        Args:
            observation: Every row of the call.
            sample: The rows whose distribution is to be taken: in training a random subset, else all of them.
            terms: Value of each term of the loss, where it is one of ours, and what other numbers it lends.
            histograms: Whether histograms are wanted of this look.
        """

    def beside(self, look: Look) -> State | None:
        """The state of what a step that was looked at shows beside its logits; None where it has nothing to say.

        Asked once for each look, whatever was captured in it, and merged with what `summary` gives.
        """
        return None

    @abstractmethod
    def readings(self, state: State, tags: Tags, step: int) -> list[Reading]:
        """What the merged state says; equal on every rank.

        The scalars of an evaluation are also what EarlyStopping and ModelCheckpoint may monitor.
        """

    def concluded(self, tags: Tags, step: int) -> list[Reading]:
        """What there is to say when an evaluation is over, beyond its state.

        Asked on every rank at the same place, whatever failed before, so that a monitor may communicate here.
        """
        return []

    def memory(self) -> dict[str, Any]:
        """Plain numbers and tensors a monitor carries from report to report, beside its state; saved in checkpoints."""
        return {}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """Go on with what `memory` gave when a checkpoint was saved."""
        if memory:
            raise ValueError(f"{type(self).__name__} remembers nothing, got {sorted(memory)}")

    @abstractmethod
    def rows_in(self, state: State) -> int:
        """How many rows a state on the CPU has seen."""
