"""What the gradient monitor keeps of the rows it saw: how hard cross-entropy pulls at each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from logitwatch.functional.linear_head import LinearRows
from logitwatch.states.class_gradient import ClassGradient
from logitwatch.states.head_scale import HeadScale
from logitwatch.states.logit_histogram import LogitHistogram
from logitwatch.states.logit_summary import MOST_TERMS
from logitwatch.states.moments import Moments
from logitwatch.states.protocol import merge_fields, nested, summed

__all__ = ["GradientSummary"]


@dataclass(frozen=True)
class GradientSummary:
    """Rows seen; of those with a target the gradient norms, how many vanish, how many are right; head, terms, classes.

    Examples:
        >>> norm, correct = torch.tensor([0.001, 0.2, 0.6]), torch.tensor([True, True, False])
        >>> seen = GradientSummary.of(norm, correct, torch.tensor([True, True, False]), bound=0.01)
        >>> seen.seen.item(), seen.vanishing().item(), round(seen.norm().item(), 4), seen.accuracy().item()
        (3, 0.5, 0.1005, 1.0)
    """

    seen: Tensor = summed()  # int64, rows with or without a target
    vanished: Tensor = summed()  # int64, rows whose norm is below the bound
    correct: Tensor = summed()  # int64
    norms: LogitHistogram = nested()
    head: HeadScale = nested()
    term_norms: Moments = nested()  # [MOST_TERMS]
    term_cosines: Moments = nested()  # [MOST_TERMS]
    classes: ClassGradient = nested()

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> GradientSummary:
        """See `State.empty`."""
        zero = torch.zeros((), dtype=torch.int64, device=device)
        terms = Moments.empty(MOST_TERMS, device=device)
        norms, head = LogitHistogram.empty(device=device), HeadScale.empty(device=device)
        return cls(zero, zero, zero, norms, head, terms, terms, ClassGradient.empty(device=device))

    @classmethod
    def of(
        cls, norm: Tensor, correct: Tensor, counted: Tensor, head: LinearRows | None = None, *, bound: float
    ) -> GradientSummary:
        """The summary of rows.

        Args:
            norm: Norm of the gradient on the logits of each row, ``[rows]``; NaN where there is no target.
            correct: Whether each is predicted right, bool ``[rows]``.
            counted: Rows that count, bool ``[rows]``.
            head: What the linear layer made of some of them, where it is known.
            bound: A norm below it has vanished.
        """
        norm = norm.detach()
        counted = counted & norm.isfinite()
        return cls(
            seen=torch.full((), len(norm), dtype=torch.int64, device=norm.device),
            vanished=((norm < bound) & counted).sum(),
            correct=(correct & counted).sum(),
            norms=LogitHistogram.of(norm, counted),
            head=HeadScale.empty(device=norm.device) if head is None else HeadScale.of(head),
            term_norms=Moments.empty(MOST_TERMS, device=norm.device),
            term_cosines=Moments.empty(MOST_TERMS, device=norm.device),
            classes=ClassGradient.empty(device=norm.device),
        )

    def with_classes(self, classes: ClassGradient) -> GradientSummary:
        """The same with what some of the rows ask of each class."""
        return replace(self, classes=classes)

    def with_terms(self, terms: Sequence[tuple[Tensor, Tensor] | None]) -> GradientSummary:
        """The same with the norm of the gradient of each term of the loss, and its cosine with cross-entropy.

        Args:
            terms: Norm and cosine of the first `MOST_TERMS` terms; NaN, or None for a term, where there is none.
        """
        nothing = torch.full((), torch.nan, device=self.seen.device)
        pairs = [(nothing, nothing) if pair is None else pair for pair in terms[:MOST_TERMS]]
        pairs += [(nothing, nothing)] * (MOST_TERMS - len(pairs))
        norms, cosines = (torch.stack(values).detach().unsqueeze(-1) for values in zip(*pairs, strict=True))
        return replace(
            self,
            term_norms=Moments.of(norms, norms.isfinite(), dim=-1),
            term_cosines=Moments.of(cosines, cosines.isfinite(), dim=-1),
        )

    def merge(self, other: GradientSummary) -> GradientSummary:
        """See `State.merge`."""
        return merge_fields(self, other)

    def norm(self) -> Tensor:
        """Mean norm of the gradient, float64; NaN where no row has a target, as below."""
        return self.norms.total / self.norms.count

    def vanishing(self) -> Tensor:
        """Share of the rows whose norm is below the bound, float64."""
        return self.vanished.double() / self.norms.count

    def hardest(self, fraction: float = 0.1) -> Tensor:
        """Share of the sum of norms that the rows with the largest hold; see `LogitHistogram.upper_share`."""
        return self.norms.upper_share(fraction)

    def accuracy(self) -> Tensor:
        """Share of the rows that are predicted right, float64."""
        return self.correct.double() / self.norms.count
