"""How much predictions differ where dropout stays on: uncertainty of the prediction, and of the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitwatch.functional.ensembles import mixture_of_probabilities
from logitwatch.functional.numerics import accumulator_dtype, upcast
from logitwatch.functional.uncertainty import softmax_entropy
from logitwatch.states.logit_histogram import LogitHistogram
from logitwatch.states.moments import Moments
from logitwatch.states.protocol import merge_fields, nested, summed

__all__ = ["DropoutSummary"]


@dataclass(frozen=True)
class DropoutSummary:
    r"""Means over rows of what several passes with dropout say of each.

    With :math:`p_m` the prediction of pass ``m``: predictive entropy :math:`H(\frac1M \sum_m p_m)`, expected entropy
    :math:`\frac1M \sum_m H(p_m)`, mutual information their difference; and the variance of a logit over passes, without
    bias, averaged over the classes that are present. The variance is of the raw logits: a shift of all of them that
    differs from pass to pass counts, though it changes no prediction.

    References:
        Gal & Ghahramani, "Dropout as a Bayesian Approximation", 2016.
        Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning", 2011.

    Examples:
        >>> seen = DropoutSummary.of(torch.tensor([[[100.0, 0.0]], [[0.0, 100.0]]]))
        >>> {name: round(value.item(), 4) for name, value in seen.means().items()}
        {'predictive_entropy': 0.6931, 'expected_entropy': 0.0, 'mutual_information': 0.6931, 'logit_variance': 5000.0}
        >>> DropoutSummary.empty().means()["logit_variance"].item()
        nan
    """

    seen: Tensor = summed()  # int64, rows
    predictive: Moments = nested()  # entropy of the mean prediction, nats
    expected: Moments = nested()  # mean entropy of the predictions, nats
    variances: LogitHistogram = nested()  # of the logits of each row, over passes

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> DropoutSummary:
        """See `State.empty`."""
        nothing = Moments.empty(device=device)
        zero = torch.zeros((), dtype=torch.int64, device=device)
        return cls(zero, nothing, nothing, LogitHistogram.empty(device=device))

    @classmethod
    def of(cls, logits: Tensor) -> DropoutSummary:
        """The state of some rows; one with a number that is not finite in any pass does not count.

        Args:
            logits: ``[passes, rows, classes]``, two passes or more; a single class is a yes-or-no decision.
        """
        z = upcast(logits.detach())
        present = z.isfinite().all(0)
        known = z.where(present, 0.0).to(accumulator_dtype(z.device))
        squares = (known - known.mean(0)).square().sum((0, -1))  # `var` warns where there is no row
        variance = squares / ((len(z) - 1) * present.sum(-1))
        if z.shape[-1] == 1:
            z = torch.cat((torch.zeros_like(z), z), dim=-1)
        predictive, expected = softmax_entropy(mixture_of_probabilities(z)), softmax_entropy(z).mean(0)
        counted = variance.isfinite() & predictive.isfinite() & expected.isfinite()
        return cls(
            torch.full((), z.shape[1], dtype=torch.int64, device=z.device),
            Moments.of(predictive, counted),
            Moments.of(expected, counted),
            LogitHistogram.of(variance, counted),
        )

    def merge(self, other: DropoutSummary) -> DropoutSummary:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def nonfinite(self) -> Tensor:
        """Rows that do not count, int64."""
        return self.seen - self.variances.count

    def means(self) -> dict[str, Tensor]:
        """Means over the rows that count, float64; NaN where there are none."""
        predictive, expected = self.predictive.mean, self.expected.mean
        return {
            "predictive_entropy": predictive,
            "expected_entropy": expected,
            "mutual_information": (predictive - expected).clamp(min=0),
            "logit_variance": self.variances.total / self.variances.count,
        }
