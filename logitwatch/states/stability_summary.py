"""What the stability guard keeps of the rows it saw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.functional.row_statistics import RowStatistics
from logitwatch.states.class_counts import ClassCounts
from logitwatch.states.extrema import Extrema
from logitwatch.states.look_series import LookSeries
from logitwatch.states.protocol import maximised, merge_fields, nested, summed

__all__ = ["StabilitySummary", "near_ties"]


def near_ties(rows: RowStatistics, dtype: torch.dtype) -> Tensor:
    r"""Rows whose two largest logits are neighbours in a floating type, or equal: which is larger is rounding.

    .. math:: z_{(1)} - z_{(2)} \le \epsilon\, 2^{\lfloor \log_2 |z_{(1)}| \rfloor}

    with the :math:`\epsilon` of the type.

    Args:
        rows: Per-row quantities ``[rows]``.
        dtype: The type the logits came in.

    Returns:
        bool ``[rows]``.

    Examples:
        >>> from logitwatch.functional.row_statistics import row_statistics
        >>> near_ties(row_statistics(torch.tensor([[40.0, 39.75], [4.0, 3.75]])), torch.bfloat16)
        tensor([ True, False])
    """
    mantissa, exponent = torch.frexp(rows.max_logit)
    spacing = torch.ldexp(torch.full_like(mantissa, torch.finfo(dtype).eps), exponent - 1)
    return rows.finite & (rows.margin <= spacing)


@dataclass(frozen=True)
class StabilitySummary:
    """Row counts, range of the logits against that of their type, the looks one by one, and classes.

    Examples:
        >>> from logitwatch.functional.row_statistics import row_statistics
        >>> z = torch.tensor([[300.0, 0.0], [float("nan"), 0.0]], dtype=torch.float16)
        >>> rows, y, every = row_statistics(z), torch.tensor([0, 1]), torch.tensor([True, True])
        >>> seen = StabilitySummary.of(rows, y, every, num_classes=2, dtype=z.dtype, step=7)
        >>> seen.nonfinite.item(), seen.first_nonfinite(), seen.absmax(), seen.largest_finite()
        (1, 7, 300.0, 65504.0)
    """

    seen: Tensor = summed()  # int64, rows
    nonfinite: Tensor = summed()  # int64, rows with NaN, +inf or no present class
    counted: Tensor = summed()  # int64, finite rows whose target counts, or that have none
    near_tied: Tensor = summed()  # int64, counted rows
    negative_first: Tensor = maximised()  # float64, of the first step with a non-finite row
    negative_largest: Tensor = maximised()  # float64, of the largest finite number of the types the logits came in
    spacing: Tensor = maximised()  # float64, largest epsilon of these types
    extrema: Extrema = nested()  # of every finite row
    looks: LookSeries = nested()
    classes: ClassCounts = nested()

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> StabilitySummary:
        """See `State.empty`."""
        zero = torch.zeros((), dtype=torch.int64, device=device)
        nothing = torch.full((), -torch.inf, dtype=accumulator_dtype(zero.device), device=device)
        return cls(
            *(zero,) * 4,
            *(nothing,) * 3,
            Extrema.empty(device=device),
            LookSeries.empty(device=device),
            ClassCounts.empty(device=device),
        )

    @classmethod
    def of(
        cls,
        rows: RowStatistics,
        targets: Tensor | None,
        counted: Tensor,
        *,
        num_classes: int,
        dtype: torch.dtype,
        step: int = 0,
        place: int = 0,
        extremes: tuple[Tensor, Tensor] | None = None,
    ) -> StabilitySummary:
        """The summary of one look.

        Args:
            rows: Per-row quantities ``[rows]``.
            targets: Class of each row, int64 ``[rows]``, or probabilities, which name no class; or None.
            counted: Rows whose target counts, bool ``[rows]``.
            num_classes: Number of classes.
            dtype: The type the logits came in.
            step: Optimizer steps taken before.
            place: See `LookSeries.of`.
            extremes: Largest and smallest logit of every row, where ``rows`` are only some of them.
        """
        high, low = (rows.max_logit, rows.min_logit) if extremes is None else extremes
        if len(high) == 0:
            return cls.empty(device=high.device)
        finite, counted = high.isfinite(), counted & rows.finite
        wide = accumulator_dtype(high.device)
        nonfinite = (~finite).sum()
        high, low = torch.where(finite, high, -torch.inf), torch.where(finite, low, torch.inf)
        info = torch.finfo(dtype) if dtype.is_floating_point else torch.finfo(torch.float32)
        indices = targets is not None and targets.ndim == 1 and not targets.is_floating_point()

        def number(value: float) -> Tensor:
            return torch.full((), value, dtype=wide, device=high.device)

        return cls(
            seen=torch.full_like(nonfinite, len(high)),
            nonfinite=nonfinite,
            counted=counted.sum(),
            near_tied=(near_ties(rows, dtype) & counted).sum() if dtype.is_floating_point else nonfinite * 0,
            negative_first=torch.where(nonfinite > 0, number(-step), number(-torch.inf)),
            negative_largest=number(-info.max),
            spacing=number(info.eps),
            extrema=Extrema.of(high, low),
            looks=LookSeries.of(rows, counted, place=place, absmax=torch.maximum(high, -low)),
            classes=ClassCounts.of(rows.prediction, targets, counted, num_classes=num_classes)
            if indices and targets is not None
            else ClassCounts.empty(device=high.device),
        )

    def merge(self, other: StabilitySummary) -> StabilitySummary:
        """See `State.merge`."""
        return merge_fields(self, other)

    def absmax(self) -> float:
        """Largest magnitude of a logit in a finite row; ``-inf`` where there was none."""
        return max(self.extrema.maximum.item(), -self.extrema.minimum.item())

    def first_nonfinite(self) -> int | None:
        """The first step with a non-finite row; None where there is none."""
        return int(-self.negative_first.item()) if self.negative_first.isfinite() else None

    def largest_finite(self) -> float:
        """Largest finite number of the types the logits came in, the smallest of them."""
        return -self.negative_largest.item()
