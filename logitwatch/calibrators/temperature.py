"""Temperature scaling: one number that softens or sharpens every prediction and changes no argmax."""

import math
import warnings
from typing import NamedTuple, final

import torch
from torch import Tensor

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.inputs import CalibrationRows, CalibrationWarning

__all__ = ["TemperatureScaling"]

# Inverse temperatures that are looked at, for logits of unit spread. At the lower every prediction is uniform to a
# thousandth; past the upper a softmax is one-hot unless logits agree to nine digits.
LOWEST, HIGHEST = 1e-3, 1e9
# Standard errors below which the logits may as well have been drawn apart from the targets, as in `TemperatureGrid`.
SIGNIFICANT = 3.0


@final
class TemperatureScaling(Calibrator):
    r"""Divides logits by the temperature that minimises the NLL of the held-out rows.

    .. math:: z' = z / T, \qquad T^* = \arg\min_{T > 0} \sum_i w_i \left(\log \sum_k e^{z_{ik}/T} - z_{iy_i}/T\right)

    The NLL is convex in :math:`1/T`; a bracketed Newton iteration in :math:`\log 1/T` on logits of unit spread finds
    its minimum to rounding, without a learning rate, and :math:`T^*(cz) = c\,T^*(z)`. No prediction changes, so
    accuracy does not; a per-row constant changes nothing.

    Where the rows have no such minimum a `CalibrationWarning` says so, ``determined`` is False, and ``temperature`` is
    a bounded number to go on with, not an estimate:

    * separable rows, every target a largest logit: ``T`` would go to 0. It is fitted with half a row spread over all
      classes (targets smoothed by ``1 / (2 * rows)``).
    * targets no likelier where logits are larger, as random labels: ``T`` would go to infinity. It is held where the
      logits divided by it have a spread of 1/1000, that is, predictions are uniform. Rows in which they are likelier
      by less than three standard errors keep their minimum, with the same warning.
    * logits that are equal in each row: ``T`` changes nothing, and is 1.

    Attributes:
        temperature: ``T``, a scalar; above 1 where the model is over-confident.
        determined: Whether the rows determine it, bool.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", 2017.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
        >>> scaling = TemperatureScaling().fit(logits.repeat(10, 1), torch.tensor([0, 0, 1, 1]).repeat(10))
        >>> scaling.temperature  # right three times in four: 4 / log 3
        tensor(3.6410)
        >>> scaling(torch.tensor([4.0, 0.0])).softmax(-1), scaling(torch.tensor([1.0, float("-inf")]))
        (tensor([0.7500, 0.2500]), tensor([0.2747,   -inf]))
    """

    temperature: Tensor
    determined: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("determined", torch.tensor(False))

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        z = self._lifted(logits, 0)
        return z / self.temperature.to(z.dtype)

    def _fit(self, rows: CalibrationRows) -> None:
        """See `Calibrator._fit`."""
        temperature, doubt = _optimum(rows)
        if doubt:
            warnings.warn(f"no temperature is determined by {len(rows.targets)} rows: {doubt}", CalibrationWarning, 3)
        self._learned(temperature=torch.tensor(temperature, dtype=torch.float64), determined=torch.tensor(doubt == ""))


def _optimum(rows: CalibrationRows) -> tuple[float, str]:
    """A temperature, and why it is not determined, if it is not."""
    stream = _Stream.of(rows)
    if stream is None:
        return 1.0, "the logits of each row are equal; the temperature is 1"
    total = stream.weights.sum()
    # The derivative of the NLL at 1/T = 0, row by row: negative where the target's logit is above the average.
    slopes = stream.average - stream.target
    score = -(stream.weights @ slopes) / (stream.weights @ slopes.square()).sqrt()
    if score <= 0:
        return stream.spread / LOWEST, "targets are no likelier where their logits are larger; predictions are uniform"
    if bool((stream.target == 0).all()):
        # Half a row, or a vanishing weight would ask for more smoothing than there is to smooth.
        smoothing = min(0.5, 0.5 / total.item())
        softened = stream._replace(target=torch.lerp(stream.target, stream.average, smoothing))
        return softened.temperature(), "every target is a largest logit; half a row is spread over all classes"
    if score < SIGNIFICANT:
        return (
            stream.temperature(),
            f"targets are likelier where their logits are larger by {score:.1f} standard errors",
        )
    return stream.temperature(), ""


class _Stream(NamedTuple):
    """Rows for the search: logits less their maximum, in units of their spread, 0 where a class is absent."""

    logits: Tensor
    present: Tensor
    average: Tensor  # over present classes
    target: Tensor
    weights: Tensor
    spread: float

    @classmethod
    def of(cls, rows: CalibrationRows) -> "_Stream | None":
        """None where logits have no spread."""
        z = rows.logits.to(rows.weights)
        z = z - z.amax(1, keepdim=True)
        present = z > -torch.inf
        z, count = z.where(present, 0.0), present.sum(1)
        average = z.sum(1) / count
        squares = (z - average.unsqueeze(1)).where(present, 0.0).square().sum(1)
        spread = math.sqrt((rows.weights @ squares / (rows.weights @ count.to(z))).item())
        if spread == 0:
            return None
        target = z.gather(1, rows.targets.unsqueeze(1)).squeeze(1)
        return cls(z / spread, present, average / spread, target / spread, rows.weights, spread)

    def temperature(self) -> float:
        """Where the derivative of the NLL vanishes; at the end of the range where it does not."""
        low, high = math.log(LOWEST), math.log(HIGHEST)
        u = 0.0
        for _ in range(200):  # halving alone needs 60
            slope, curvature = self._derivatives(math.exp(u))
            step = -slope / curvature if curvature > 0 else math.copysign(math.inf, -slope)
            if abs(step) < 1e-13 or high - low < 1e-13:
                break
            low, high = (u, high) if slope < 0 else (low, u)
            u = u + step if low < u + step < high else (low + high) / 2
        return self.spread / math.exp(u)

    def _derivatives(self, beta: float) -> tuple[float, float]:
        """``beta`` times the derivative of the summed NLL in ``beta``, and ``beta ** 2`` times the second."""
        p = (beta * self.logits).masked_fill(~self.present, -torch.inf).softmax(1)
        mean = (p * self.logits).sum(1)
        variance = (p * (self.logits - mean.unsqueeze(1)).square()).sum(1)
        return beta * (self.weights @ (mean - self.target)).item(), beta**2 * (self.weights @ variance).item()
