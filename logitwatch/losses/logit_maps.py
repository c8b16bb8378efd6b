"""What may stand between the logits a head gives and the softmax: a soft cap, or division by the norm."""

import math
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["LogitMap", "LogitNorm", "SoftCap"]

# Beyond this hyperbolic tangent less than a tenth of the gradient comes through; see `soft_cap_saturation`.
SATURATED = math.sqrt(0.9)


class LogitMap(Protocol):
    """A map of each row of logits, and how a gradient goes back through it.

    Attributes:
        predicts: Whether the model predicts from the mapped logits, so that they are what is to be watched.
    """

    predicts: bool

    def apply(self, z: Tensor) -> Tensor:
        """Map a block ``[rows, classes]`` in place; gives what `pull` needs. An absent class stays ``-inf``."""
        ...

    def pull(self, gradient: Tensor, kept: Tensor) -> None:
        """Turn the gradient of the mapped block into that of the block, in place; `kept` is spent."""
        ...

    def saturated(self, kept: Tensor, absent: Tensor | None) -> Tensor | None:
        """How many present logits of each row hardly let a gradient through; None from a map that has no bound."""
        ...


class SoftCap:
    r"""Logits that stay within :math:`\pm c`, :math:`c \tanh(z / c)`.

    Args:
        cap: ``c > 0``.

    References:
        Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024.

    Examples:
        >>> z = torch.tensor([[0.0, 30.0]])
        >>> kept = SoftCap(30.0).apply(z)
        >>> z
        tensor([[ 0.0000, 22.8478]])
    """

    predicts = True

    def __init__(self, cap: float) -> None:
        self.cap = cap

    def apply(self, z: Tensor) -> Tensor:
        """See `LogitMap.apply`."""
        absent = z == -torch.inf
        kept = z.div_(self.cap).tanh_().clone()
        z.mul_(self.cap).masked_fill_(absent, -torch.inf)
        return kept

    def pull(self, gradient: Tensor, kept: Tensor) -> None:
        """See `LogitMap.pull`."""
        gradient.mul_(kept.square_().neg_().add_(1.0))

    def saturated(self, kept: Tensor, absent: Tensor | None) -> Tensor:
        """See `LogitMap.saturated`."""
        count = (kept.abs() > SATURATED).sum(1)
        return count if absent is None else count - absent.sum()  # of an absent class the tangent is -1


class LogitNorm:
    r"""Logits on a sphere, :math:`z / (\tau \sqrt{\lVert z \rVert^2 + \epsilon^2})`; see `LogitNormLoss`.

    Args:
        temperature: ``tau > 0``.
        eps: Keeps the gradient of a row of zeros finite.

    Examples:
        >>> z = torch.tensor([[3.0, 4.0, float("-inf")]])
        >>> kept = LogitNorm(1.0, 1e-3).apply(z)
        >>> z
        tensor([[0.6000, 0.8000,   -inf]])
    """

    predicts = False

    def __init__(self, temperature: float, eps: float) -> None:
        self.temperature, self.eps = temperature, eps

    def apply(self, z: Tensor) -> Tensor:
        """See `LogitMap.apply`; what is kept ends in a column with the norm."""
        absent = z == -torch.inf
        present = z.masked_fill(absent, 0.0)
        unit = present.abs().amax(1, keepdim=True).clamp_(min=1.0)
        scaled = present.div_(unit)  # squares of large logits would overflow
        norm = (torch.linalg.vecdot(scaled, scaled).unsqueeze(1) + (self.eps / unit).square()).sqrt_()
        torch.div(scaled.div_(norm), self.temperature, out=z).masked_fill_(absent, -torch.inf)
        return torch.cat((scaled, norm.mul_(unit)), dim=1)

    def pull(self, gradient: Tensor, kept: Tensor) -> None:
        """See `LogitMap.pull`."""
        direction, norm = kept[:, :-1], kept[:, -1:]
        along = torch.linalg.vecdot(direction, gradient).unsqueeze(1)
        gradient.sub_(direction * along).div_(norm * self.temperature)

    def saturated(self, kept: Tensor, absent: Tensor | None) -> None:
        """See `LogitMap.saturated`."""
