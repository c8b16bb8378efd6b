"""When an alarm is told: once, and once more where it becomes worse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from logitwatch.drift.verdict import Verdict

__all__ = ["Episode", "Level"]

Level = Literal["warning", "critical"]


class Episode:
    """Put around a detector: tells the begin of an alarm, and that it became critical, and then is silent.

    An episode is over when the score has been below ``quiet`` for ``cooldown`` updates in a row; an alarm before that
    belongs to it.

    Args:
        quiet: A score; below 1, so that one at its threshold does not begin an episode each time.
        critical: A score, 1 or more. One that is infinite is critical at once.
        cooldown: Updates.

    Examples:
        >>> episode = Episode(cooldown=2)
        >>> scores = [0.2, 1.1, 0.9, 1.2, 1.7, 1.9, 0.1, 0.1, 1.3]
        >>> [episode.told(Verdict(score >= 1, score, 3.0)) for score in scores]
        [None, 'warning', None, None, 'critical', None, None, None, 'warning']
    """

    def __init__(self, *, quiet: float = 0.5, critical: float = 1.5, cooldown: int = 50) -> None:
        if not 0 < quiet < 1 <= critical:
            raise ValueError(f"expected 0 < quiet < 1 <= critical, got {quiet} and {critical}")
        if cooldown < 1:
            raise ValueError(f"cooldown must be >= 1 update, got {cooldown}")
        self._quiet, self._critical, self._cooldown = quiet, critical, cooldown
        self._height = 0  # 0 where nothing is the matter, 1 after a warning, 2 after it became critical
        self._calm = 0  # updates in a row below `quiet`

    @property
    def is_open(self) -> bool:
        """Whether an episode goes on."""
        return self._height > 0

    def told(self, verdict: Verdict) -> Level | None:
        """Take in the next verdict; the level of an `Alert` where that has to be told, else None."""
        self._calm = self._calm + 1 if verdict.score < self._quiet else 0
        if self._calm >= self._cooldown:
            self._height = 0
        height = verdict.alarm + (verdict.score >= self._critical)
        if height <= self._height:
            return None
        self._height = height
        return "critical" if height == 2 else "warning"

    def state_dict(self) -> dict[str, Any]:
        """Two numbers."""
        return {"height": self._height, "calm": self._calm}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on as saved."""
        self._height, self._calm = saved["height"], saved["calm"]
