"""What the attention monitor keeps: size and spread of the attention logits, a place for each layer and head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from logitwatch.functional.attention import HeadStatistics
from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.states.protocol import maximised, merge_fields, summed

__all__ = ["MOST_HEADS", "MOST_LAYERS", "AttentionSummary"]

# Places for layers and heads; what has none is counted in `AttentionSummary.left_out`.
MOST_LAYERS, MOST_HEADS = 128, 64


@dataclass(frozen=True)
class AttentionSummary:
    """Query rows of each layer and head, ``[MOST_LAYERS, MOST_HEADS]`` each; see `HeadStatistics`.

    Examples:
        >>> from logitwatch.functional.attention import head_statistics
        >>> seen = AttentionSummary.of({1: head_statistics(torch.tensor([[[[0.0, 0.0], [5.0, 5.0]]]]))})
        >>> seen.mean_entropy()[1, 0].item(), seen.max_logit[1, 0].item(), seen.rows.sum().item()
        (1.0, 5.0, 2)
    """

    rows: Tensor = summed()  # int64
    counted: Tensor = summed()  # int64
    nonfinite: Tensor = summed()  # int64
    entropy: Tensor = summed()  # float64, sum over the rows that counted
    max_logit: Tensor = maximised()  # float64, -inf where no row was seen
    bound: Tensor = maximised()  # float64, likewise
    left_out: Tensor = summed()  # int64, heads of a look that have no place
    unread: Tensor = summed()  # int64, calls of attention that could not be read

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> AttentionSummary:
        """See `State.empty`."""
        shape, wide = (MOST_LAYERS, MOST_HEADS), accumulator_dtype(torch.device(device))
        counts = torch.zeros(shape, dtype=torch.int64, device=device)
        nothing = torch.full(shape, -torch.inf, dtype=wide, device=device)
        none = torch.zeros((), dtype=torch.int64, device=device)
        return cls(counts, counts, counts, torch.zeros(shape, dtype=wide, device=device), nothing, nothing, none, none)

    @classmethod
    def of(
        cls,
        layers: Mapping[int, HeadStatistics],
        *,
        left_out: int = 0,
        unread: int = 0,
        device: torch.device | str | None = None,
    ) -> AttentionSummary:
        """The summary of one look.

        Args:
            layers: The heads of layers by their place. What is beyond the places is counted.
            left_out: Heads that have no place already.
            unread: Calls that could not be read.
            device: Where the state is to be; by default where the statistics are.
        """
        if device is None:
            device = next((heads.rows.device for heads in layers.values()), torch.device("cpu"))
        empty = cls.empty(device=device)
        placed = {place: heads for place, heads in layers.items() if place < MOST_LAYERS}
        left_out += sum(len(heads.rows) for place, heads in layers.items() if place >= MOST_LAYERS)
        left_out += sum(max(0, len(heads.rows) - MOST_HEADS) for heads in placed.values())
        fields = {}
        for name in HeadStatistics._fields:
            filled = getattr(empty, name).clone()
            for place, heads in placed.items():
                numbers = getattr(heads, name)[:MOST_HEADS]
                filled[place, : len(numbers)] = numbers.detach().to(filled)
            fields[name] = filled
        return cls(**fields, left_out=empty.left_out + left_out, unread=empty.unread + unread)

    def merge(self, other: AttentionSummary) -> AttentionSummary:
        """See `State.merge`."""
        return merge_fields(self, other)

    def mean_entropy(self) -> Tensor:
        """Mean normalised entropy of each head, float64; NaN where no row counted."""
        return self.entropy / self.counted
