"""One report of the stability guard, as its rules see it: plain numbers, equal on every rank."""

from __future__ import annotations

from typing import NamedTuple

from logitwatch.states.class_counts import MOST_CLASSES
from logitwatch.states.look_series import LookValues
from logitwatch.states.stability_summary import StabilitySummary

__all__ = ["Window"]


class Window(NamedTuple):
    """What was seen between two reports of training, or in one evaluation."""

    stage: str
    loader: int
    step: int
    rows: int
    counted: int
    nonfinite: int
    first_nonfinite: int | None  # its step
    near_tied: int
    absmax: float  # -inf where no row was finite
    largest: float  # largest finite number of the type of the logits
    spacing: float  # its epsilon
    num_classes: int
    mean: LookValues  # over all rows of all looks
    looks: list[LookValues]
    predicted: list[int]  # rows by class; empty for a vocabulary that is not counted class by class
    labelled: list[int]

    @classmethod
    def of(cls, state: StabilitySummary, *, stage: str, loader: int, step: int, first: int = 0) -> Window:
        """A window from the merged state, on the CPU.

        Args:
            state: Of all ranks.
            stage, loader, step: Where and when.
            first: The place of the first look, see `LookSeries.looks`.
        """
        classes = int(state.classes.num_classes)
        counted_classes = classes if classes <= MOST_CLASSES else 0
        return cls(
            stage=stage,
            loader=loader,
            step=step,
            rows=int(state.seen),
            counted=int(state.counted),
            nonfinite=int(state.nonfinite),
            first_nonfinite=state.first_nonfinite(),
            near_tied=int(state.near_tied),
            absmax=state.absmax(),
            largest=state.largest_finite(),
            spacing=float(state.spacing),
            num_classes=classes,
            mean=state.looks.mean(),
            looks=state.looks.looks(first),
            predicted=state.classes.predicted[:counted_classes].tolist(),
            labelled=state.classes.labelled[:counted_classes].tolist(),
        )

    @property
    def where(self) -> str:
        """Stage and data loader, as in tags."""
        return self.stage if self.loader == 0 else f"{self.stage}/dataloader_idx_{self.loader}"

    @property
    def half(self) -> bool:
        """Whether the logits came in half precision."""
        return self.spacing > 1e-5

    @property
    def type_name(self) -> str:
        """Name of the type of the logits, as far as range and spacing tell."""
        names = {(65504.0, 2.0**-10): "float16", (float(2**128 - 2**120), 2.0**-7): "bfloat16"}
        return names.get((self.largest, self.spacing), "half precision" if self.half else "float32 or wider")
