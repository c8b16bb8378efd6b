"""How often each rule has raised its alert, and the line of a log at its first."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from logitwatch.sinks.readings import Alert, Reading, Scalars

__all__ = ["Alerts"]

logger = logging.getLogger("logitwatch")


class Alerts:
    """Counts the alerts of a run, of whatever monitor.

    Attributes:
        counts: By rule, over the whole run.

    Examples:
        >>> alerts = Alerts()
        >>> raised = Alert(rule="too_hot", step=7, level="info", title="Too hot", text="Cool it.")
        >>> alerts.counted([raised])[-1].values
        {'alerts/too_hot': 1.0}
        >>> alerts.counted([raised])[-1].values
        {'alerts/too_hot': 2.0}
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def counted(self, readings: Sequence[Reading]) -> list[Reading]:
        """The readings and, where there are alerts among them, ``alerts/<rule>``: how many there have been."""
        told: list[Reading] = list(readings)
        for alert in (reading for reading in readings if isinstance(reading, Alert)):
            before = self.counts.get(alert.rule, 0)
            self.counts[alert.rule] = before + 1
            told.append(Scalars(values={f"alerts/{alert.rule}": before + 1.0}, step=alert.step))
            if before == 0 and alert.level != "info":
                logger.warning("logitwatch: step %d: %s. %s", alert.step, alert.title, alert.text)
        return told
