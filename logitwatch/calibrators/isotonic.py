"""Isotonic calibration: for each class the best map that never decreases."""

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

__all__ = ["IsotonicCalibration", "isotonic_means"]


@final
class IsotonicCalibration(Calibrator):
    r"""The non-decreasing map of the log-odds of "class k or not" nearest to what happened, normalised over classes.

    .. math:: q_k = \arg\min_{q \text{ non-decreasing}} \sum_i w_i \left(q(s_{ik}) - [y_i = k]\right)^2, \qquad
        z'_k = \log q_k(s_k) - \log \sum_j q_j(s_j)

    with :math:`s_k = z_k - \log \sum_{j \ne k} e^{z_j}`. Found by pooling adjacent violators; straight between the
    knots, constant beyond the outermost, as in scikit-learn. The number of knots depends on the rows.

    A class that was absent from all rows is left as it is. Where the map is 0 a single row of that class would cost an
    infinite NLL, which is more than the rows can know; ``floor`` keeps :math:`q` and :math:`1 - q` above it. Ties can
    arise, so accuracy may change; a constant added to each row changes nothing.

    Args:
        floor: Least probability; None for half a row, ``1 / (2 * rows)``; 0 for the plain map.

    Attributes:
        knots: Log-odds at which a class's map bends, ``[classes, knots]``, the last repeated.
        values: The map there, ``[classes, knots]``.

    Raises:
        ValueError: If ``floor`` is negative, or 1/2 or more.

    References:
        Zadrozny & Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", 2002; Ayer et
        al., "An Empirical Distribution Function for Sampling with Incomplete Information", 1955.

    Examples:
        >>> logits = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0]])
        >>> isotonic = IsotonicCalibration().fit(logits, torch.tensor([0, 1, 0, 1]))
        >>> isotonic(torch.cat((logits, torch.tensor([[0.0, 9.0]])))).softmax(-1)[:, 1]
        tensor([0.1250, 0.5000, 0.5000, 0.8750, 0.8750])
        >>> isotonic(torch.tensor([0.0, float("-inf")])).softmax(-1)
        tensor([1., 0.])
    """

    knots: Tensor
    values: Tensor

    def __init__(self, *, floor: float | None = None) -> None:
        super().__init__()
        check_floor(floor)
        self.floor = floor
        self.register_buffer("knots", torch.empty(0, 0))
        self.register_buffer("values", torch.empty(0, 0))

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        z = self._lifted(logits, self.knots.shape[0])
        scores = class_log_odds(z)
        x, y = self.knots.to(z.dtype), self.values.to(z.dtype)
        s = scores.reshape(-1, x.shape[0]).t().contiguous()
        s = torch.minimum(torch.maximum(s, x[:, :1]), x[:, -1:])
        right = torch.searchsorted(x, s, right=True).clamp(max=x.shape[1] - 1)
        left = (right - 1).clamp(min=0)
        x0, y0 = x.gather(1, left), y.gather(1, left)
        gap = x.gather(1, right) - x0
        # Knots are apart, but for the repeated last, where s = x0 too.
        share = (s - x0) / torch.where(gap > 0, gap, 1.0)
        q = y0 + share * (y.gather(1, right) - y0)
        return calibrated_logits(log_or_unchanged(q.t().reshape(scores.shape), scores), scores, z)

    def _fit(self, rows: CalibrationRows) -> None:
        """See `Calibrator._fit`."""
        floor = min(0.25, 0.5 / rows.weights.sum().item()) if self.floor is None else self.floor
        maps = [_map(one, floor) for one in class_rows(rows)]
        longest = max(len(x) for x, _ in maps)
        x, y = (torch.stack([_padded(line, longest) for line in lines]) for lines in zip(*maps, strict=True))
        self._learned(knots=x, values=y)

    def extra_repr(self) -> str:
        return f"floor={self.floor}"


def isotonic_means(means: Tensor, weights: Tensor) -> Tensor:
    """The non-decreasing sequence nearest to ``means`` in weighted squares, by pooling adjacent violators.

    Equal neighbours are pooled before the loop, so for a class it takes no more turns than twice the rows it has.

    Args:
        means: ``[n]``.
        weights: ``[n]``, positive.

    Examples:
        >>> isotonic_means(torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 3.0, 1.0]))
        tensor([0.0000, 0.2500, 0.2500, 1.0000])
    """
    values, block = torch.unique_consecutive(means, return_inverse=True)
    sums = torch.zeros_like(values).index_add(0, block, weights)
    pooled: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), sums.tolist(), strict=True):
        mean, mass, length = value, weight, 1
        while pooled and pooled[-1][0] >= mean:
            before, earlier, blocks = pooled.pop()
            mean, mass, length = (before * earlier + mean * mass) / (earlier + mass), earlier + mass, length + blocks
        pooled.append((mean, mass, length))
    lengths = torch.tensor([length for _, _, length in pooled], device=means.device)
    return means.new_tensor([mean for mean, _, _ in pooled]).repeat_interleave(lengths)[block]


def _map(one: ClassRows, floor: float) -> tuple[Tensor, Tensor]:
    """Knots and values of a class's map; NaN for a class of which the rows say nothing."""
    if not len(one.scores):
        return one.scores.new_zeros(1), one.scores.new_full((1,), torch.nan)
    x, place = one.scores.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    weights = torch.zeros_like(x).index_add(0, place, one.weights)
    yes = torch.zeros_like(x).index_add(0, place, one.weights * one.yes)
    y = isotonic_means(yes / weights, weights).clamp(floor, 1 - floor)
    # Inside a level stretch a knot changes nothing.
    bends = torch.ones_like(x, dtype=torch.bool)
    bends[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
    return x[bends], y[bends]


def _padded(line: Tensor, length: int) -> Tensor:
    return torch.cat((line, line[-1:].expand(length - len(line))))
