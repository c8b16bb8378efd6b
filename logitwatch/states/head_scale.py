"""How large the logits of a linear head are, and by which of three factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitwatch.functional.linear_head import LinearRows
from logitwatch.states.moments import Moments
from logitwatch.states.protocol import maximised, merge_fields, nested

__all__ = ["HeadScale"]


@dataclass(frozen=True)
class HeadScale:
    r"""Means of what `linear_rows` measures, whose logarithms add up.

    .. math:: \log \text{scale} = \log \text{head} + \log \text{features} + \log \text{alignment}

    Examples:
        >>> from logitwatch.functional.linear_head import linear_rows
        >>> h = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> seen = HeadScale.of(linear_rows(2 * torch.eye(2), None, h, 2 * h, 2 * h))
        >>> {name: round(factor.item(), 4) for name, factor in seen.factors().items()}
        {'logit_scale': 4.2426, 'head_norm': 2.0, 'feature_norm': 3.0, 'alignment': 0.7071}
    """

    rows: Moments = nested()  # [3]: of the head, the features and the logits, each once a row
    mismatch: Tensor = maximised()  # float64, of W h + b with the logits

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> HeadScale:
        """See `State.empty`."""
        nothing = Moments.empty(3, device=device)
        return cls(nothing, torch.zeros_like(nothing.total[0]))

    @classmethod
    def of(cls, seen: LinearRows) -> HeadScale:
        """The state of some rows; one with a number that is not finite is left out."""
        values = torch.stack((seen.head.expand_as(seen.features), seen.features, seen.logits))
        rows = Moments.of(values, values.isfinite().all(0), dim=-1)
        return cls(rows, seen.mismatch.detach().to(rows.total.dtype))

    def merge(self, other: HeadScale) -> HeadScale:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def count(self) -> Tensor:
        """Rows measured, int64."""
        return self.rows.count[0]

    def factors(self) -> dict[str, Tensor]:
        """``logit_scale`` and the three it is the product of, float64; NaN where nothing was measured."""
        head, features, logits = self.rows.mean
        return {
            "logit_scale": logits,
            "head_norm": head,
            "feature_norm": features,
            "alignment": logits / (head * features),
        }
