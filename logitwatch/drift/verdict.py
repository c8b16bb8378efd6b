"""What a detector says of one value, and what all detectors have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

__all__ = ["Detector", "Verdict"]


class Verdict(NamedTuple):
    """What a detector says of one value."""

    alarm: bool
    score: float
    """Evidence of a change as a fraction of the threshold: at 1 it is an alarm."""
    baseline: float | None
    """What is normal, in the unit of the value; None while that is being learnt."""


class Detector(Protocol):
    """What all detectors have in common."""

    def update(self, value: float) -> Verdict:
        """Take in the next value."""

    def reset(self) -> None:
        """Forget everything and learn anew; for a planned change, as of the phase of the learning rate."""

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists of numbers, in dictionaries; ``torch.load(weights_only=True)`` takes them."""

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on exactly as the detector that was saved; it was made with the same arguments."""
