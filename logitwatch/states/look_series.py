"""The looks of one report one by one: a short series of means, in a state that ranks can still add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.functional.row_statistics import RowStatistics
from logitwatch.states.protocol import maximised, merge_fields, summed

__all__ = ["LookSeries", "LookValues"]

# Looks of a report that are kept apart. Where there are more, neighbours share a place.
PLACES = 64
# The streams of `LookSeries.totals`, in order.
STREAMS = ("log_partition", "entropy", "nll", "overconfidence")


class LookValues(NamedTuple):
    """Means over the rows of a look, in nats, NaN where no row has the quantity; and its largest magnitude."""

    absmax: float
    log_partition: float
    entropy: float
    nll: float
    overconfidence: float  # of NLL less entropy


@dataclass(frozen=True)
class LookSeries:
    """What each look of a report saw, by the place its step has in the report.

    Ranks look at the same steps, so places add up over ranks as rows do.

    Examples:
        >>> from logitwatch.functional.row_statistics import row_statistics
        >>> one, other = (row_statistics(torch.tensor([[x, 0.0]])) for x in (2.0, 4.0))
        >>> every = torch.tensor([True])
        >>> seen = LookSeries.of(one, every, place=5).merge(LookSeries.of(other, every, place=7))
        >>> [round(look.log_partition, 3) for look in seen.looks()], [look.absmax for look in seen.looks()]
        ([2.127, 4.018], [2.0, 4.0])
    """

    counts: Tensor = summed()  # int64 [PLACES, STREAMS]
    totals: Tensor = summed()  # float64 [PLACES, STREAMS]
    absmax: Tensor = maximised()  # float64 [PLACES], -inf where nothing was seen

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> LookSeries:
        """See `State.empty`."""
        dtype = accumulator_dtype(torch.device(device))
        shape = PLACES, len(STREAMS)
        return cls(
            torch.zeros(shape, dtype=torch.int64, device=device),
            torch.zeros(shape, dtype=dtype, device=device),
            torch.full((PLACES,), -torch.inf, dtype=dtype, device=device),
        )

    @classmethod
    def of(cls, rows: RowStatistics, counted: Tensor, *, place: int, absmax: Tensor | None = None) -> LookSeries:
        """The series that holds one look.

        Args:
            rows: Per-row quantities ``[rows]``.
            counted: Rows that count, bool ``[rows]``.
            place: Where the look belongs; places go round.
            absmax: Largest magnitude of a logit, where it is known of more rows than these.
        """
        empty = cls.empty(device=counted.device)
        values = torch.stack([rows.log_partition, rows.entropy, rows.nll, rows.nll - rows.entropy], -1).detach()
        known = (counted & rows.finite).unsqueeze(-1) & values.isfinite()
        if absmax is None:
            largest = torch.maximum(rows.max_logit.abs(), rows.min_logit.abs())
            absmax = torch.where(counted & rows.finite, largest, -torch.inf)
        at = place % PLACES
        for field, value in (
            (empty.counts, known.sum(0)),
            (empty.totals, torch.where(known, values, 0.0).to(empty.totals.dtype).sum(0)),
            (empty.absmax, absmax.detach().amax() if absmax.numel() else absmax.new_full((), -torch.inf)),
        ):
            field[at] = value
        return empty

    def merge(self, other: LookSeries) -> LookSeries:
        """See `State.merge`."""
        return merge_fields(self, other)

    def looks(self, first: int = 0) -> list[LookValues]:
        """The looks in the order of their places, from a place on; only those at which something was seen.

        Args:
            first: The place of the first step the report may hold.
        """
        means, largest = (self.totals / self.counts).tolist(), self.absmax.tolist()
        order = [(first + i) % PLACES for i in range(PLACES)]
        return [LookValues(largest[at], *means[at]) for at in order if largest[at] > -torch.inf]

    def mean(self) -> LookValues:
        """The same over all rows of all looks."""
        return LookValues(self.absmax.amax().item(), *(self.totals.sum(0) / self.counts.sum(0)).tolist())
