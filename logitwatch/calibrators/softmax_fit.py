"""The convex fits of a softmax: its NLL with smoothed targets, and a minimiser without a learning rate."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.calibrators.inputs import CalibrationRows, CalibrationWarning

__all__ = ["LinearModel", "SoftmaxFit", "filled", "minimum"]

ITERATIONS, INNER_ITERATIONS, HALVINGS = 200, 500, 40
# Largest entry of the gradient of the mean NLL, in nats per unit of a parameter on logits of unit spread: where the
# search ends, and what is still a minimum where rounding ends it before.
FLAT, NEARLY_FLAT = 1e-10, 1e-6


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
        smoothed: Whether every present class of every row has some of the target.
    """

    logits: Tensor
    centre: Tensor
    spread: Tensor
    present: Tensor
    targets: Tensor
    weights: Tensor
    smoothed: bool

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
        return cls((z - centre) / spread, centre, spread, present, targets, weights, share > 0)

    def nll(self, outputs: Tensor) -> tuple[float, Tensor, Tensor]:
        """Mean NLL of calibrated logits ``[rows, classes]``, its gradient in them, and their probabilities."""
        log_p = outputs.masked_fill(~self.present, -torch.inf).log_softmax(1)
        loss = -(self.weights * self.targets * log_p.where(self.present, 0.0)).sum()
        p = log_p.exp()
        return loss.item(), self.weights * (p - self.targets), p

    def curvature(self, p: Tensor, direction: Tensor) -> Tensor:
        """The second derivative of the mean NLL at probabilities ``p``, times a direction ``[rows, classes]``."""
        moved = p * direction
        return self.weights * (moved - p * moved.sum(1, keepdim=True))


class LinearModel(NamedTuple):
    """Calibrated logits that are linear in a vector of parameters.

    Attributes:
        outputs: From parameters to ``[rows, classes]``.
        adjoint: Its transpose.
        start: Parameters to start from.
        penalty: Gradient, linear too, of a quadratic penalty.
        offset: What is added to the outputs.
    """

    outputs: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    start: Tensor
    penalty: Callable[[Tensor], Tensor] = torch.zeros_like
    offset: Tensor | float = 0.0


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


def minimum(problem: SoftmaxFit, model: LinearModel, what: str) -> Tensor:
    """Parameters of smallest mean NLL and penalty, by Newton's method with conjugate gradients over all rows.

    Nothing is moved in a direction that changes no row, so the result is one even where the optimum is not.

    Args:
        problem: The rows.
        model: From parameters to calibrated logits.
        what: Who asks, for the `CalibrationWarning` where the gradient has not vanished at the end.

    Returns:
        The parameters.
    """
    point, steepest = model.start, float("inf")
    for _ in range(ITERATIONS):
        loss, by_output, p = problem.nll(model.outputs(point) + model.offset)
        gradient = model.adjoint(by_output) + model.penalty(point)
        loss, steepest = loss + 0.5 * float(point @ model.penalty(point)), gradient.abs().max().item()
        if steepest < FLAT:
            break

        def curved(v: Tensor, p: Tensor = p) -> Tensor:
            return model.adjoint(problem.curvature(p, model.outputs(v))) + model.penalty(v)

        step = _newton_step(curved, gradient)
        following = _descended(problem, model, point, loss, step, float(gradient @ step))
        if following is None:
            break
        point = following
    if not steepest < NEARLY_FLAT:
        warnings.warn(
            f"{what} has not converged in {ITERATIONS} iterations: largest gradient {steepest:.1e}, "
            f"expected below {NEARLY_FLAT:.0e}",
            CalibrationWarning,
            4,
        )
    _warn_of_infinity(problem, model, point, what)
    return point


def _warn_of_infinity(problem: SoftmaxFit, model: LinearModel, point: Tensor, what: str) -> None:
    """Say so where the optimum is at infinity: nothing holds the parameters, and twice them is better for every row."""
    outputs = model.outputs(point)
    held = isinstance(model.offset, Tensor) or model.penalty(point).any() or problem.smoothed
    if not held and bool((problem.nll(outputs)[2].where(problem.targets > 0, 1.0) > 0.5).all()):
        warnings.warn(
            f"{what} has no finite optimum: it separates every row; smoothing > 0 bounds it", CalibrationWarning, 5
        )


def _newton_step(curved: Callable[[Tensor], Tensor], gradient: Tensor) -> Tensor:
    """Conjugate gradients for ``curved(step) = gradient``, the closer the nearer the optimum."""
    step, rest = torch.zeros_like(gradient), gradient
    direction, size = rest, rest @ rest
    enough = size * torch.minimum(size.sqrt(), size.new_tensor(0.01))
    for _ in range(INNER_ITERATIONS):
        along = curved(direction)
        bend = direction @ along
        if bend <= 1e-15 * (direction @ direction):  # flat to rounding
            break
        length = size / bend
        step, rest = step + length * direction, rest - length * along
        smaller = rest @ rest
        if smaller <= enough:
            break
        direction, size = rest + smaller / size * direction, smaller
    return step if step.any() else gradient


def _descended(
    problem: SoftmaxFit, model: LinearModel, point: Tensor, loss: float, step: Tensor, slope: float
) -> Tensor | None:
    """Where along a step the loss falls as promised: at a half, a quarter; or, while it still falls, at twice, four."""

    def loss_at(share: float) -> float:
        following = point - share * step
        lower = problem.nll(model.outputs(following) + model.offset)[0]
        return lower + 0.5 * float(following @ model.penalty(following))

    for halvings in range(HALVINGS):
        share = 0.5**halvings
        lower = loss_at(share)
        if lower <= loss - 1e-4 * share * slope and lower < loss:
            break
    else:
        return None
    # Where every row is certain there is hardly a curvature to tell how far to go.
    while share >= 1 and (further := loss_at(2 * share)) < lower:
        share, lower = 2 * share, further
    return point - share * step
