"""Histogram binning: for each class the share of hits in bins of its probability."""

from typing import final

import torch
from torch import Tensor

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.inputs import CalibrationRows, check_floor
from logitwatch.calibrators.one_vs_rest import (
    ClassRows,
    calibrated_logits,
    class_log_odds,
    class_rows,
    log_or_unchanged,
)

__all__ = ["HistogramBinning"]

STRATEGIES = ("mass", "width")


@final
class HistogramBinning(Calibrator):
    r"""How often "class k" was right in the bin its probability falls into, normalised over the classes.

    .. math:: q_k = \frac{\sum_{i \in B} w_i [y_i = k]}{\sum_{i \in B} w_i}, \qquad
        z'_k = \log q_k - \log \sum_j q_j

    Bins are ``[lo, hi)``, the last closed. In an empty bin, and for a class that was absent from all rows, the
    probability is left as it is. Where no row of a bin was right its :math:`q` is 0, and a single one to come would
    cost an infinite NLL; ``floor`` keeps :math:`q` and :math:`1 - q` above it.

    A step function: confidences tie, and accuracy may change. A constant added to each row changes nothing.

    Args:
        num_bins: Bins for each class.
        strategy: ``"width"`` for bins of equal width in :math:`p`, ``"mass"`` for as many rows in each as ties allow.
        floor: Least probability; None for half a row of the bin; 0 for the plain share.

    Attributes:
        edges: Inner edges as log-odds, ``[classes, num_bins - 1]``.
        values: :math:`q`, ``[classes, num_bins]``; NaN where a bin is empty.

    Raises:
        ValueError: If ``num_bins`` is below 1, the strategy unknown, or ``floor`` negative or 1/2 or more.

    References:
        Zadrozny & Elkan, "Obtaining calibrated probability estimates from decision trees and naive Bayesian
        classifiers", 2001.

    Examples:
        >>> logits = torch.tensor([[0.0, 3.0], [0.0, 4.0], [0.0, 5.0], [1.0, 0.0]])
        >>> binning = HistogramBinning(num_bins=2).fit(logits, torch.tensor([1, 0, 1, 0]))
        >>> binning(torch.tensor([[0.0, 9.0], [9.0, 0.0], [0.0, float("-inf")]])).softmax(-1)
        tensor([[0.3333, 0.6667],
                [0.5000, 0.5000],
                [1.0000, 0.0000]])
    """

    edges: Tensor
    values: Tensor

    def __init__(self, *, num_bins: int = 15, strategy: str = "width", floor: float | None = None) -> None:
        super().__init__()
        if num_bins < 1:
            raise ValueError(f"num_bins must be >= 1, got {num_bins}")
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
        check_floor(floor)
        self.num_bins, self.strategy, self.floor = num_bins, strategy, floor
        self.register_buffer("edges", torch.empty(0, num_bins - 1))
        self.register_buffer("values", torch.empty(0, num_bins))

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        z = self._lifted(logits, self.values.shape[0])
        scores = class_log_odds(z)
        s = scores.reshape(-1, self.values.shape[0]).t().contiguous()
        places = torch.searchsorted(self.edges.to(z.dtype), s, right=True)
        q = self.values.to(z.dtype).gather(1, places.clamp(max=self.values.shape[1] - 1))
        return calibrated_logits(log_or_unchanged(q.t().reshape(scores.shape), scores), scores, z)

    def _fit(self, rows: CalibrationRows) -> None:
        """See `Calibrator._fit`."""
        tables = [self._table(one) for one in class_rows(rows)]
        edges, values = (torch.stack(parts) for parts in zip(*tables, strict=True))
        self._learned(edges=edges, values=values)

    def _table(self, one: ClassRows) -> tuple[Tensor, Tensor]:
        """Inner edges and shares of a class."""
        inner = torch.arange(1, self.num_bins).to(one.weights) / self.num_bins
        edges = inner.logit() if self.strategy == "width" else _quantiles(one, inner)
        place = torch.searchsorted(edges, one.scores, right=True)
        mass = edges.new_zeros(self.num_bins).index_add(0, place, one.weights)
        yes = edges.new_zeros(self.num_bins).index_add(0, place, one.weights * one.yes)
        floor = (0.5 / mass).clamp(max=0.5) if self.floor is None else torch.full_like(mass, self.floor)
        share = torch.minimum(torch.maximum(yes / mass, floor), 1 - floor)
        return edges, torch.where(mass > 0, share, torch.nan)

    def extra_repr(self) -> str:
        return f"num_bins={self.num_bins}, strategy={self.strategy!r}, floor={self.floor}"


def _quantiles(one: ClassRows, fractions: Tensor) -> Tensor:
    """The scores at which these fractions of the weight lie below; 0 where there are no rows."""
    if not len(one.scores):
        return torch.zeros_like(fractions)
    ordered, place = one.scores.sort()
    mass = one.weights[place].cumsum(0)
    # Half an ulp's worth of slack: a sum of thirds is not quite one.
    at = torch.searchsorted(mass, fractions * mass[-1] * (1 + 1e-12), right=True)
    return ordered[at.clamp(max=len(ordered) - 1)]
