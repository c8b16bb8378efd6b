"""Which layer has which place in a summary of attention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from logitwatch.functional.attention import HeadStatistics
from logitwatch.states.attention_summary import MOST_LAYERS, AttentionSummary

__all__ = ["AttentionLayers"]


class AttentionLayers:
    """Gives each layer a place when it is first heard, as long as there are places.

    The order is that of the calls in a step, so it is the same on every rank, and it is kept in checkpoints.

    Args:
        names: Those that have a place already, in their order.

    Examples:
        >>> from logitwatch.functional.attention import head_statistics
        >>> heads, layers = head_statistics(torch.ones(1, 2, 1, 3)), AttentionLayers(["decoder"])
        >>> layers.summary({"encoder": heads, "decoder": heads}).rows.sum(1)[:3].tolist(), layers.names
        ([2, 2, 0], ['decoder', 'encoder'])
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._places = {name: place for place, name in enumerate(names)}

    @property
    def names(self) -> list[str]:
        """By place."""
        return list(self._places)

    def summary(
        self, heard: Mapping[str, HeadStatistics], *, unread: int = 0, device: torch.device | None = None
    ) -> AttentionSummary:
        """What was heard in one step, each layer at its place.

        Args:
            heard: Statistics by the name of the layer; heads of a layer without a place are counted.
            unread: Calls that could not be read.
            device: Where the state is to be: layers may be on several.
        """
        for name in heard:
            if len(self._places) < MOST_LAYERS:
                self._places.setdefault(name, len(self._places))
        placed = {self._places[name]: heads for name, heads in heard.items() if name in self._places}
        left_out = sum(len(heads.rows) for name, heads in heard.items() if name not in self._places)
        return AttentionSummary.of(placed, left_out=left_out, unread=unread, device=device)
