"""Matrix scaling: every calibrated logit a linear function of all logits."""

import warnings
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.inputs import CalibrationRows, CalibrationWarning, check_not_negative
from logitwatch.calibrators.softmax_fit import LinearModel, SoftmaxFit, filled, minimum
from logitwatch.functional.numerics import full_precision

__all__ = ["MatrixScaling"]

# Fewer rows than this for each parameter, and the fit follows their noise.
ROWS_PER_PARAMETER = 10


@final
class MatrixScaling(Calibrator):
    r"""A linear map of the logits that minimises the NLL of the held-out rows, on request regularised.

    .. math::

        z' = W z + b, \qquad \min_{W, b}\; \mathrm{NLL}
        + \frac{\lambda}{K (K - 1)} \sum_{i \ne j} s^2 W_{ij}^2 + \frac{\mu}{K} \sum_k b_k^2

    with :math:`K` classes, the mean NLL, and :math:`s` the spread of the logits about the means of their classes, so
    that what :math:`\lambda` means does not depend on the scale of the logits. :math:`\lambda` is ``off_diagonal`` and
    :math:`\mu` ``intercept_penalty``; with :math:`\lambda` large the map is a scaling of each class by itself.
    A convex problem, solved by Newton's method in float64, smoothed as `VectorScaling` is.

    ``classes * (classes + 1)`` numbers are fitted. With fewer than ten rows for each, and no ``off_diagonal``, a
    `CalibrationWarning` says that the map will follow the noise of the rows: with 100 classes and 5000 rows Guo et al.
    saw the calibration error rise. `select_calibrator` finds which penalty serves best.

    Accuracy may change, and so may the result with a constant added to each row. An absent class enters as the mean of
    those present, and stays absent.

    Args:
        off_diagonal: Weight :math:`\lambda \ge 0` of the squared off-diagonal entries.
        intercept_penalty: Weight :math:`\mu \ge 0` of the squared intercepts.
        smoothing: How many rows' worth of target is spread over all classes, ``>= 0``.

    Attributes:
        matrix: :math:`W`, ``[classes, classes]``.
        intercept: :math:`b`, ``[classes]``, of mean 0.

    Raises:
        ValueError: If an argument is negative or not finite.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", 2017; Kull et al., "Beyond temperature scaling:
        Obtaining well-calibrated multi-class probabilities with Dirichlet calibration", 2019, for the penalties.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).repeat(60, 1)
        >>> scaling = MatrixScaling(smoothing=0.0).fit(logits, torch.tensor([0, 1, 0, 1, 0, 0]).repeat(20))
        >>> scaling(torch.tensor([[2.0, 0.0], [0.0, 2.0]])).softmax(-1)[1]
        tensor([0.3333, 0.6667])
    """

    matrix: Tensor
    intercept: Tensor

    def __init__(self, *, off_diagonal: float = 0.0, intercept_penalty: float = 0.0, smoothing: float = 0.5) -> None:
        super().__init__()
        self.off_diagonal, self.intercept_penalty, self.smoothing = off_diagonal, intercept_penalty, smoothing
        for name in ("off_diagonal", "intercept_penalty", "smoothing"):
            check_not_negative(name, getattr(self, name))
        self.register_buffer("matrix", torch.empty(0, 0))
        self.register_buffer("intercept", torch.empty(0))

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        z = self._lifted(logits, self.intercept.shape[0])
        matrix, intercept = self.matrix.to(z.dtype), self.intercept.to(z.dtype)
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            mapped = F.linear(filled(z), matrix, intercept)
        else:
            with full_precision(z.device):
                mapped = F.linear(filled(z), matrix, intercept)
        return torch.where(z == -torch.inf, z, mapped)

    def _fit(self, rows: CalibrationRows) -> None:
        """See `Calibrator._fit`."""
        problem = SoftmaxFit.of(rows, self.smoothing)
        classes = problem.logits.shape[1]
        self._warn_of_noise(classes, rows.weights.sum().item())
        shift = problem.centre / problem.spread
        even = torch.eye(classes).to(shift)
        pulls = self.off_diagonal / (classes * (classes - 1)) * (1 - even), self.intercept_penalty / classes

        def penalty(x: Tensor) -> Tensor:
            matrix, level = x[:-classes].view(classes, classes), x[-classes:]
            by_intercept = 2 * pulls[1] * (level - matrix @ shift)
            by_matrix = 2 * pulls[0] * matrix - torch.outer(by_intercept, shift)
            return torch.cat((by_matrix.flatten(), by_intercept))

        model = LinearModel(
            outputs=lambda x: problem.logits @ x[:-classes].view(classes, classes).T + x[-classes:],
            adjoint=lambda g: torch.cat(((g.T @ problem.logits).flatten(), g.sum(0))),
            start=torch.cat((even.flatten(), torch.zeros_like(shift))),
            penalty=penalty,
        )
        point = minimum(problem, model, type(self).__name__)
        matrix = point[:-classes].view(classes, classes)
        intercept = point[-classes:] - matrix @ shift
        self._learned(matrix=matrix / problem.spread, intercept=intercept - intercept.mean())

    def _warn_of_noise(self, classes: int, rows: float) -> None:
        parameters = classes * (classes + 1)
        if self.off_diagonal == 0 and rows < ROWS_PER_PARAMETER * parameters:
            warnings.warn(
                f"MatrixScaling fits {parameters} numbers to {rows:g} rows and will follow their noise: expected "
                f"{ROWS_PER_PARAMETER * parameters} rows or more; give off_diagonal > 0, or use TemperatureScaling",
                CalibrationWarning,
                4,
            )

    def extra_repr(self) -> str:
        return (
            f"off_diagonal={self.off_diagonal}, intercept_penalty={self.intercept_penalty}, smoothing={self.smoothing}"
        )
