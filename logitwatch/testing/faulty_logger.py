"""A logger whose disk is full, whose network is slow, or both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from logitwatch.testing._lightning import namespaces

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger as _Logger
else:
    # A Logger of every installed namespace, so that a Trainer of either takes it.
    _Logger = type("_Logger", tuple(dict.fromkeys(lightning.loggers.Logger for lightning in namespaces())), {})

__all__ = ["FaultyLogger"]

_DISK_FULL = OSError(28, "No space left on device")


class FaultyLogger(_Logger):
    """A Lightning logger that takes ``delay`` seconds for each call and fails at every ``every``-th; kept in memory.

    What the suite sends it is isolated. Lightning is not so kind: what a module logs itself ends the run here, as it
    does with a real logger, so let nothing else be logged.

    Args:
        error: What is raised; None for a logger that is only slow, or only remembers.
        delay: Seconds each call takes.
        every: Which calls fail: every first, every second, ...

    Attributes:
        asked: Calls of `log_metrics`.
        metrics: ``(step, metrics)`` of each call that was accepted.

    Raises:
        ValueError: If ``delay`` is negative or ``every`` is less than 1.

    Examples:
        >>> logger = FaultyLogger(every=2)
        >>> logger.log_metrics({"loss": 0.5}, step=1)
        >>> logger.log_metrics({"loss": 0.4}, step=2)
        Traceback (most recent call last):
            ...
        OSError: [Errno 28] No space left on device
        >>> logger.asked, logger.metrics
        (2, [(1, {'loss': 0.5})])
    """

    def __init__(self, *, error: Exception | None = _DISK_FULL, delay: float = 0.0, every: int = 1) -> None:
        super().__init__()
        if delay < 0:
            raise ValueError(f"delay must be >= 0, got {delay!r}")
        if every < 1:
            raise ValueError(f"every must be >= 1, got {every!r}")
        self.error, self.delay, self.every = error, delay, every
        self.asked = 0
        self.metrics: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        """Its folder's name, if it had a folder."""
        return "faulty"

    @property
    def version(self) -> int:
        """Always the first."""
        return 0

    @property
    def experiment(self) -> None:
        """There is none behind it."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep the metrics, or fail."""
        self.asked += 1
        time.sleep(self.delay)
        if self.error is not None and self.asked % self.every == 0:
            raise self.error.with_traceback(None)  # the frames of the last time are not to be kept
        self.metrics.append((step, dict(metrics)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is done with them."""
