"""Everything the logit monitor keeps of the rows it saw, in one state of fixed size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.functional.row_statistics import RowStatistics
from logitwatch.states.extrema import Extrema
from logitwatch.states.logit_histogram import LogitHistogram
from logitwatch.states.moments import Moments
from logitwatch.states.protocol import merge_fields, nested, summed

__all__ = ["LogitSummary"]

# The streams of `LogitSummary.quantities`, in order.
QUANTITIES = ("norm", "log_partition", "entropy", "confidence", "margin", "nll", "accuracy")
# Terms of a composed loss that are followed; a fixed number, so that every rank reduces the same size.
MOST_TERMS = 8
HISTOGRAMS = ("logit_histogram", "margin_histogram", "confidence_histogram", "entropy_histogram")


@dataclass(frozen=True)
class LogitSummary:
    """Row counts, exact extrema, moments and histograms of logits and of the quantities of each row.

    Rows seen equal rows counted, non-finite, ignored and without a possible target, always. Extrema and the row counts
    are of every row that was looked at; moments and histograms of the rows whose distribution was taken.

    Examples:
        >>> from logitwatch.functional.row_statistics import row_statistics
        >>> rows = row_statistics(torch.tensor([[2.0, 0.0], [float("nan"), 0.0]]), torch.tensor([0, 1]))
        >>> summary = LogitSummary.of(rows, torch.tensor([[2.0, 0.0], [float("nan"), 0.0]]))
        >>> summary.seen.item(), summary.nonfinite.item(), summary.extrema.maximum.item()
        (2, 1, 2.0)
        >>> round(summary.means()["accuracy"], 6)
        1.0
    """

    seen: Tensor = summed()  # int64, rows
    nonfinite: Tensor = summed()  # int64, rows with NaN, +inf or no present class
    ignored: Tensor = summed()  # int64, finite rows whose target is to be ignored
    bad_target: Tensor = summed()  # int64, finite rows whose target is not a class
    tied: Tensor = summed()  # int64, counted rows whose two largest logits are equal
    quantities: Moments = nested()  # [len(QUANTITIES)]
    logits: Moments = nested()  # of all present logits of counted rows
    terms: Moments = nested()  # [MOST_TERMS], values of the terms of the loss
    extrema: Extrema = nested()
    logit_histogram: LogitHistogram = nested()
    margin_histogram: LogitHistogram = nested()
    confidence_histogram: LogitHistogram = nested()
    entropy_histogram: LogitHistogram = nested()

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> LogitSummary:
        """See `State.empty`."""
        zero = torch.zeros((), dtype=torch.int64, device=device)
        histogram = LogitHistogram.empty(device=device)
        return cls(
            *(zero,) * 5,
            Moments.empty(len(QUANTITIES), device=device),
            Moments.empty(device=device),
            Moments.empty(MOST_TERMS, device=device),
            Extrema.empty(device=device),
            *(histogram,) * 4,
        )

    @classmethod
    def of(
        cls,
        rows: RowStatistics,
        logits: Tensor | None = None,
        valid: Tensor | None = None,
        *,
        shown: Tensor | None = None,
    ) -> LogitSummary:
        """The summary of rows that are all counted in full.

        Args:
            rows: Per-row quantities ``[rows]``.
            logits: The logits they are of, any shape, for the histograms, which stay empty where None.
            valid: Rows that count, ``[rows]`` bool; all where None.
            shown: Where the logits are of some of the rows only, which of those count, bool.
        """
        rows = RowStatistics(*(values.detach() for values in rows))
        valid = torch.ones_like(rows.correct) if valid is None else valid
        finite = rows.finite
        counted = finite & valid
        known = rows.nll.isnan().logical_not() & counted
        zero = torch.zeros((), dtype=torch.int64, device=finite.device)
        return cls(
            seen=torch.full_like(zero, len(finite)),
            nonfinite=(~finite).sum(),
            ignored=(finite & ~valid).sum(),
            bad_target=zero,
            tied=((rows.margin == 0) & counted).sum(),
            quantities=_moments(rows, counted, known),
            logits=_pooled(rows, counted),
            terms=Moments.empty(MOST_TERMS, device=finite.device),
            extrema=Extrema.of(
                torch.where(finite, rows.max_logit, -torch.inf), torch.where(finite, rows.min_logit, torch.inf)
            ),
            **_histograms(rows, logits, counted, counted if shown is None else shown),
        )

    def with_every_row(
        self, high: Tensor, low: Tensor, valid: Tensor, bad_target: Tensor, known: Mapping[str, Tensor]
    ) -> LogitSummary:
        """The same distributions, with extrema and row counts replaced by those of every row.

        Args:
            high: Largest logit of every row; not finite for a non-finite row.
            low: Smallest present logit of every row.
            valid: Rows whose target counts.
            bad_target: Rows whose target is not a class.
            known: Quantities known of every row, which then replace those of the sample.
        """
        finite = high.isfinite()
        counted = finite & valid & ~bad_target
        quantities = self.quantities
        for name in set(known) & set(QUANTITIES):
            exact = Moments.of(known[name], counted & ~known[name].isnan())
            quantities = _with_stream(quantities, QUANTITIES.index(name), exact)
        return replace(
            self,
            seen=torch.full_like(self.seen, len(high)),
            nonfinite=(~finite).sum(),
            ignored=(finite & ~valid).sum(),
            bad_target=(finite & bad_target).sum(),
            quantities=quantities,
            extrema=Extrema.of(torch.where(finite, high, -torch.inf), torch.where(finite, low, torch.inf)),
        )

    def with_terms(self, values: Sequence[Tensor | None]) -> LogitSummary:
        """The same with the values of the terms of the loss, the first `MOST_TERMS` of them; None for an absent one."""
        nothing = torch.full((), torch.nan, device=self.seen.device)
        padded = [nothing if value is None else value.detach().to(self.seen.device) for value in values[:MOST_TERMS]]
        padded += [nothing] * (MOST_TERMS - len(padded))
        stacked = torch.stack(padded).unsqueeze(-1)
        return replace(self, terms=Moments.of(stacked, ~stacked.isnan(), dim=-1))

    def merge(self, other: LogitSummary) -> LogitSummary:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def counted(self) -> Tensor:
        """Rows whose distribution was taken, int64."""
        return self.quantities.count[QUANTITIES.index("confidence")]

    def means(self) -> dict[str, float]:
        """Mean of each of `QUANTITIES` over the rows that have it; NaN where none has."""
        return dict(zip(QUANTITIES, self.quantities.mean.tolist(), strict=True))


def _moments(rows: RowStatistics, counted: Tensor, known: Tensor) -> Moments:
    """Moments of `QUANTITIES`; each counts the rows that have it."""
    values = torch.stack(
        [
            rows.norm,
            rows.log_partition,
            rows.entropy,
            rows.confidence,
            rows.margin,
            rows.nll,
            rows.correct,
        ]
    )
    mask = torch.stack([counted] * 4 + [counted & rows.margin.isfinite(), known, known])
    return Moments.of(values, mask, dim=-1)


def _pooled(rows: RowStatistics, counted: Tensor) -> Moments:
    """Moments of all present logits of the counted rows, from the centred sums of each row."""
    wide = accumulator_dtype(counted.device)
    n = torch.where(counted, rows.classes, 0).to(wide)
    mean = torch.where(counted, rows.mean_logit, 0.0).to(wide)
    squares = torch.where(counted, rows.squares, 0.0)
    return Moments(n.sum().long(), (n * mean).sum(), (squares + n * mean.square()).sum())


def _histograms(
    rows: RowStatistics, logits: Tensor | None, counted: Tensor, shown: Tensor
) -> dict[str, LogitHistogram]:
    if logits is None:
        nothing = _no_histogram(counted.device)
        return dict.fromkeys(HISTOGRAMS, nothing)
    flat = logits.reshape(len(shown), -1) if shown.numel() else logits.reshape(0, 1)
    return {
        "logit_histogram": LogitHistogram.of(flat, shown.unsqueeze(-1)),
        "margin_histogram": LogitHistogram.of(rows.margin, counted & rows.margin.isfinite()),
        "confidence_histogram": LogitHistogram.of(rows.confidence, counted),
        "entropy_histogram": LogitHistogram.of(rows.entropy, counted),
    }


@cache
def _no_histogram(device: torch.device) -> LogitHistogram:
    """Shared, since nothing writes into a state."""
    return LogitHistogram.empty(device=device)


def _with_stream(moments: Moments, index: int, stream: Moments) -> Moments:
    def put(old: Tensor, new: Tensor) -> Tensor:
        old = old.clone()
        old[index] = new
        return old

    return Moments(
        put(moments.count, stream.count), put(moments.total, stream.total), put(moments.squares, stream.squares)
    )
