"""What a sink says about a reading it shows in part or not at all: once for each kind, never again."""

import logging

__all__ = ["Notices"]

_logger = logging.getLogger("logitwatch")


class Notices:
    """Log lines of one sink, each said once.

    Examples:
        >>> notices = Notices("CSVLogger")
        >>> notices.once("Histogram", "histograms are in logitwatch.jsonl alone")
        True
        >>> notices.once("Histogram", "histograms are in logitwatch.jsonl alone")
        False
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._said: set[str] = set()

    def once(self, kind: str, message: str) -> bool:
        """Log ``message`` as a warning unless something was said about ``kind`` before; whether it was logged."""
        if kind in self._said:
            return False
        self._said.add(kind)
        _logger.warning("%s: %s", self._place, message)
        return True
