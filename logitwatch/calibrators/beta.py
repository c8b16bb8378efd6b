"""Beta calibration: a sigmoid of log p and log(1 - p), which can bend the two ends apart."""

from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.inputs import CalibrationRows
from logitwatch.calibrators.logistic import LogisticOptimum, class_coefficients, logistic_optimum
from logitwatch.calibrators.one_vs_rest import calibrated_logits, class_log_odds

__all__ = ["BetaCalibration"]

# A constant, and log p, -log(1 - p), or both: the optimum under a, b >= 0 is the best of these whose own are.
SUBSETS = ((0, 1, 2), (0, 2), (1, 2), (2,))


@final
class BetaCalibration(Calibrator):
    r"""The map between two beta distributions of the probability of "class k or not", normalised over the classes.

    .. math:: \log \frac{q_k}{1 - q_k} = a_k \log p_k - b_k \log(1 - p_k) + c_k, \quad a, b \ge 0, \qquad
        z'_k = \log q_k - \log \sum_j q_j

    with :math:`c = b \log(1 - m) - a \log m`, where :math:`m` is the probability that maps to 1/2. The identity is
    among these maps (:math:`a = b = 1, c = 0`), which it is not among sigmoids of :math:`p`; with :math:`a = b` it is
    `PlattScaling`. :math:`\log p` and :math:`\log(1-p)` are taken from the logits and never rounded to 0.
    Newton's method in float64 for each class; rows where a class is absent, or the only one, say nothing about it.

    The map of each class is increasing. With more than two classes accuracy may change; a constant added to each row
    changes nothing.

    Args:
        smoothing: Fit to Platt's targets, see `PlattScaling`; the optimum is then finite for any rows. Kull et al. fit
            to 1 and 0.

    Attributes:
        a: ``[classes]``, ``>= 0``.
        b: ``[classes]``, ``>= 0``.
        c: ``[classes]``.

    References:
        Kull, Silva Filho & Flach, "Beta calibration: a well-founded and easily implemented improvement on logistic
        calibration for binary classifiers", 2017.

    Examples:
        >>> logits = torch.tensor([[0.0, 4.0], [0.0, 1.0], [1.0, 0.0], [4.0, 0.0]]).repeat(10, 1)
        >>> beta = BetaCalibration(smoothing=False).fit(logits, torch.tensor([1, 1, 0, 0, 1, 0, 1, 0]).repeat(5))
        >>> beta(torch.tensor([[0.0, 4.0], [0.0, 1.0], [1.0, float("-inf")]])).softmax(-1)
        tensor([[0.0454, 0.9546],
                [0.3183, 0.6817],
                [1.0000, 0.0000]])
    """

    a: Tensor
    b: Tensor
    c: Tensor

    def __init__(self, *, smoothing: bool = True) -> None:
        super().__init__()
        self.smoothing = smoothing
        for name in ("a", "b", "c"):
            self.register_buffer(name, torch.empty(0))

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        z = self._lifted(logits, self.c.shape[0])
        scores = class_log_odds(z)
        up, down = self.a.to(z.dtype) * F.logsigmoid(scores), self.b.to(z.dtype) * F.logsigmoid(-scores)
        return calibrated_logits(F.logsigmoid(up - down + self.c.to(z.dtype)), scores, z)

    def _fit(self, rows: CalibrationRows) -> None:
        """See `Calibrator._fit`."""
        coefficients = class_coefficients(
            rows, _beta, (1.0, 1.0, 0.0), smoothing=self.smoothing, what=type(self).__name__
        )
        a, b, c = coefficients.unbind(1)
        self._learned(a=a, b=b, c=c)

    def extra_repr(self) -> str:
        return f"smoothing={self.smoothing}"


def _beta(scores: Tensor, targets: Tensor, weights: Tensor) -> LogisticOptimum:
    """The optimum with ``a, b >= 0``; the problem is convex, so it is the best of those on which one binds or none."""
    features = torch.stack((F.logsigmoid(scores), -F.logsigmoid(-scores), torch.ones_like(scores)), 1)
    best: LogisticOptimum | None = None
    for subset in SUBSETS:
        free = logistic_optimum(features[:, subset], targets, weights)
        whole = torch.zeros_like(features[0])
        whole[list(subset)] = free.coefficients
        if bool((whole[:2] >= 0).all()) and (best is None or free.nll < best.nll):
            best = free._replace(coefficients=whole)
            if subset == SUBSETS[0]:
                break
    assert best is not None  # the constant alone is always allowed
    return best
