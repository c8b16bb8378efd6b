"""Vector scaling: a slope and an intercept for each class."""

from typing import final

import torch
from torch import Tensor

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.inputs import CalibrationRows, check_not_negative
from logitwatch.calibrators.softmax_fit import LinearModel, SoftmaxFit, minimum

__all__ = ["VectorScaling"]


@final
class VectorScaling(Calibrator):
    r"""Scales and shifts the logit of each class so that the NLL of the held-out rows is smallest.

    .. math:: z'_k = a_k z_k + b_k

    A convex problem in ``2 * classes`` numbers, solved by Newton's method in float64. ``smoothing`` rows' worth of
    target is spread over all classes, which keeps the optimum finite for separable rows and for a class without rows;
    0 is plain maximum likelihood, for rows that have one.

    Accuracy may change. A constant added to each row changes the result, for :math:`a_k` multiplies it: give the same
    kind of logits to the fit and to the forward.

    Args:
        smoothing: How many rows' worth of target is spread, ``>= 0``.

    Attributes:
        slope: :math:`a`, ``[classes]``.
        intercept: :math:`b`, ``[classes]``, of mean 0.

    Raises:
        ValueError: If ``smoothing`` is negative or not finite.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", 2017.

    Examples:
        >>> import torch
        >>> logits = 2 * torch.eye(3).repeat(3, 1)
        >>> scaling = VectorScaling(smoothing=0.0).fit(logits, torch.tensor([0, 1, 2, 0, 1, 2, 1, 2, 0]))
        >>> scaling(torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, float("-inf")]])).softmax(-1)
        tensor([[0.6667, 0.1667, 0.1667],
                [0.2000, 0.8000, 0.0000]])
    """

    slope: Tensor
    intercept: Tensor

    def __init__(self, *, smoothing: float = 0.5) -> None:
        super().__init__()
        check_not_negative("smoothing", smoothing)
        self.smoothing = smoothing
        self.register_buffer("slope", torch.empty(0))
        self.register_buffer("intercept", torch.empty(0))

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        z = self._lifted(logits, self.slope.shape[0])
        scaled = z * self.slope.to(z.dtype) + self.intercept.to(z.dtype)
        # A slope of 0 or less would make NaN or +inf of an absent class.
        return torch.where(z == -torch.inf, z, scaled)

    def _fit(self, rows: CalibrationRows) -> None:
        """See `Calibrator._fit`."""
        problem = SoftmaxFit.of(rows, self.smoothing)
        classes = problem.logits.shape[1]

        model = LinearModel(
            outputs=lambda x: problem.logits * x[:classes] + x[classes:],
            adjoint=lambda g: torch.cat(((g * problem.logits).sum(0), g.sum(0))),
            start=torch.cat((torch.ones_like(problem.centre), torch.zeros_like(problem.centre))),
        )
        point = minimum(problem, model, type(self).__name__)
        slope = point[:classes] / problem.spread
        intercept = point[classes:] - slope * problem.centre
        self._learned(slope=slope, intercept=intercept - intercept.mean())

    def extra_repr(self) -> str:
        return f"smoothing={self.smoothing}"
