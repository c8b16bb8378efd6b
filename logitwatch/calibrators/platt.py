"""Platt scaling: a sigmoid of the log-odds of each class against the rest."""

from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.inputs import CalibrationRows
from logitwatch.calibrators.logistic import LogisticOptimum, class_coefficients, logistic_optimum
from logitwatch.calibrators.one_vs_rest import calibrated_logits, class_log_odds

__all__ = ["PlattScaling"]


@final
class PlattScaling(Calibrator):
    r"""A logistic regression of "class k or not" on its log-odds; over the classes the results are normalised.

    .. math:: s_k = z_k - \log \sum_{j \ne k} e^{z_j}, \qquad q_k = \sigma(a_k s_k + b_k), \qquad
        z'_k = \log q_k - \log \sum_j q_j

    For two classes that is Platt's sigmoid of :math:`z_1 - z_0`, and scikit-learn's. Newton's method in float64 for
    each class; rows where a class is absent, or the only one, say nothing about it.

    With more than two classes accuracy may change; a constant added to each row changes nothing.

    Args:
        smoothing: Fit to Platt's targets :math:`(N_+ + 1) / (N_+ + 2)` and :math:`1 / (N_- + 2)` in place of 1 and 0,
            as scikit-learn does. The optimum is then finite for any rows. Without it separable rows, or a class that
            has none, give a `CalibrationWarning` and whatever the search had reached.

    Attributes:
        slope: :math:`a`, ``[classes]``.
        intercept: :math:`b`, ``[classes]``.

    References:
        Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods",
        1999; Zadrozny & Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", 2002.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[0.0, 4.0], [0.0, 4.0], [4.0, 0.0], [4.0, 0.0]]).repeat(9, 1)
        >>> platt = PlattScaling(smoothing=False).fit(logits, torch.tensor([1, 1, 0, 1, 1, 0]).repeat(6))
        >>> platt(torch.tensor([[0.0, 4.0], [4.0, 0.0], [1.0, float("-inf")]])).softmax(-1)
        tensor([[0.3333, 0.6667],
                [0.3333, 0.6667],
                [1.0000, 0.0000]])
    """

    slope: Tensor
    intercept: Tensor

    def __init__(self, *, smoothing: bool = True) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("slope", torch.empty(0))
        self.register_buffer("intercept", torch.empty(0))

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        z = self._lifted(logits, self.slope.shape[0])
        scores = class_log_odds(z)
        log_q = F.logsigmoid(scores * self.slope.to(z.dtype) + self.intercept.to(z.dtype))
        return calibrated_logits(log_q, scores, z)

    def _fit(self, rows: CalibrationRows) -> None:
        """See `Calibrator._fit`."""
        coefficients = class_coefficients(
            rows, _sigmoid, (1.0, 0.0), smoothing=self.smoothing, what=type(self).__name__
        )
        slope, intercept = coefficients.unbind(1)
        self._learned(slope=slope, intercept=intercept)

    def extra_repr(self) -> str:
        return f"smoothing={self.smoothing}"


def _sigmoid(scores: Tensor, targets: Tensor, weights: Tensor) -> LogisticOptimum:
    return logistic_optimum(torch.stack((scores, torch.ones_like(scores)), 1), targets, weights)
