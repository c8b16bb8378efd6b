"""Exact largest and smallest value of a stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype, upcast
from logitwatch.states.protocol import maximised, merge_fields

__all__ = ["Extrema"]


@dataclass(frozen=True)
class Extrema:
    """Largest and smallest number seen. NaN is passed over; infinities count.

    The smallest is kept as the largest negative, so that one MAX merges both.

    Examples:
        >>> seen = Extrema.of(torch.tensor([1.0, float("nan"), 3.0])).merge(Extrema.of(torch.tensor([-2.0])))
        >>> seen.maximum.item(), seen.minimum.item()
        (3.0, -2.0)
        >>> Extrema.empty().maximum.item(), Extrema.empty().minimum.item()
        (-inf, inf)
    """

    maximum: Tensor = maximised()  # float64
    negative_minimum: Tensor = maximised()  # float64

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> Extrema:
        """See `State.empty`."""
        nothing = torch.full((), -torch.inf, dtype=accumulator_dtype(torch.device(device)), device=device)
        return cls(nothing, nothing)

    @classmethod
    def of(cls, values: Tensor, minima: Tensor | None = None) -> Extrema:
        """Extrema of ``values``, any shape and real type; empty for no values.

        Args:
            values: The numbers, or their maxima by row.
            minima: Minima by row, where they were reduced separately.
        """
        if values.numel() == 0:
            return cls.empty(device=values.device)
        high, low = upcast(values.detach()), upcast((values if minima is None else minima).detach())
        dtype = accumulator_dtype(values.device)
        return cls(
            high.masked_fill(high.isnan(), -torch.inf).amax().to(dtype),
            low.masked_fill(low.isnan(), torch.inf).amin().neg().to(dtype),
        )

    def merge(self, other: Extrema) -> Extrema:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def minimum(self) -> Tensor:
        """Smallest number seen, float64; ``inf`` where nothing was."""
        return -self.negative_minimum
