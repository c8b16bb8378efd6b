"""The convex fits of a softmax: its NLL with smoothed targets, and a minimiser without a learning rate."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.calibrators.inputs import CalibrationRows, CalibrationWarning

__all__ = ["SoftmaxFit", "filled", "minimum"]

ITERATIONS = 2000
# Of the mean NLL, in nats per unit of a parameter on logits of unit spread.
FLAT, NOT_FLAT = 1e-9, 1e-5

_Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


class SoftmaxFit(NamedTuple):
    """Rows whose mean NLL is to be minimised, in the widest type of their device.

    The logits are standardised, so that neither their scale nor their offset matters to the search: less the mean of
    each class, over the spread of all.

    Attributes:
        logits: Standardised, ``[rows, classes]``, an absent class `filled`.
        centre: What was taken off, ``[classes]``.
        spread: What was divided by, a scalar.
        present: bool ``[rows, classes]``.
        targets: Probabilities ``[rows, classes]``, 0 where a class is absent.
        weights: ``[rows, 1]``, of sum 1.
    """

    logits: Tensor
    centre: Tensor
    spread: Tensor
    present: Tensor
    targets: Tensor
    weights: Tensor

    @classmethod
    def of(cls, rows: CalibrationRows, smoothing: float) -> "SoftmaxFit":
        """The rows, ``smoothing`` rows' worth of target spread evenly over the classes that are present.

        With hard targets the optimum may be at infinity: where a map separates the rows, or a class has none of them.
        Any spread puts it back, since every class of every row then costs something to rule out.
        """
        z = rows.logits.to(rows.weights)
        present = z > -torch.inf
        total = rows.weights.sum()
        share = min(0.5, smoothing / total.item())
        even = present / present.sum(1, keepdim=True).to(z)
        targets = (share * even).scatter_add(1, rows.targets.unsqueeze(1), torch.full_like(z[:, :1], 1 - share))
        weights = (rows.weights / total).unsqueeze(1)
        z = filled(z)
        centre = (weights * z).sum(0)
        spread = (weights * (z - centre).square()).sum(0).mean().sqrt()
        spread = torch.where(spread > 0, spread, 1.0)
        return cls((z - centre) / spread, centre, spread, present, targets, weights)

    def nll(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean NLL of calibrated logits ``[rows, classes]``, and its gradient in them."""
        log_p = outputs.masked_fill(~self.present, -torch.inf).log_softmax(1)
        loss = -(self.weights * self.targets * log_p.where(self.present, 0.0)).sum()
        return loss, self.weights * (log_p.exp() - self.targets)


def filled(z: Tensor) -> Tensor:
    """Logits with each absent class at the mean of those present in its row, where it says least about the others.

    Examples:
        >>> filled(torch.tensor([[1.0, 3.0, float("-inf")]]))
        tensor([[1., 3., 2.]])
    """
    present = z > -torch.inf
    mean = torch.where(present, z, 0.0).sum(-1, keepdim=True) / present.sum(-1, keepdim=True).clamp(min=1)
    # Not where(present): a NaN has to stay.
    return torch.where(z == -torch.inf, mean, z)


def minimum(objective: _Objective, start: Tensor, what: str) -> Tensor:
    """Where a smooth convex function is smallest, by L-BFGS over all rows with a strong Wolfe line search.

    Args:
        objective: Value and gradient at a point.
        start: The point to start from.
        what: Who asks, for the warning.

    Returns:
        The minimiser; a `CalibrationWarning` where the gradient has not vanished there.

    Examples:
        >>> minimum(lambda x: ((x - 3).square().sum(), 2 * (x - 3)), torch.zeros(1, dtype=torch.float64), "a test")
        tensor([3.], dtype=torch.float64)
    """
    point = start.clone()
    optimizer = torch.optim.LBFGS(
        [point],
        max_iter=ITERATIONS,
        max_eval=2 * ITERATIONS,
        tolerance_grad=FLAT,
        tolerance_change=0.0,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        value, point.grad = objective(point)
        return value.item()

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    steepest = objective(point)[1].abs().max().item()
    if not steepest < NOT_FLAT:
        warnings.warn(
            f"{what} has not converged in {ITERATIONS} iterations: largest gradient {steepest:.1e}, "
            f"expected below {NOT_FLAT:.0e}",
            CalibrationWarning,
            4,
        )
    return point
