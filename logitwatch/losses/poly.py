"""Poly-1: cross-entropy with the weight of its first term changed, where it is seen as a series in 1 - p."""

import torch.nn.functional as F
from torch import Tensor

from logitwatch.losses.rows import RowLoss, odds_loss

__all__ = ["PolyLoss", "poly_loss"]


def poly_loss(
    logits: Tensor, targets: Tensor, *, epsilon: float = 2.0, weight: Tensor | None = None, dim: int = -1
) -> Tensor:
    r"""Poly-1 loss, in nats. Shift-invariant.

    .. math:: w_y \big(-\log p_y + \epsilon (1 - p_y)\big) \qquad\text{or its mean under soft targets}

    as :math:`-\log p = \sum_j (1 - p)^j / j`, of which the first term gets the weight :math:`1 + \epsilon`.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        targets: Class indices, shaped as ``logits`` without ``dim``; or probabilities, shaped as ``logits``.
        epsilon: ``>= -1``; 0 is cross-entropy. Above 0 it makes predictions more confident, below 0 less.
        weight: Class weights ``[classes]``.
        dim: The class axis, which the result drops.

    Returns:
        Loss of each example ``>= 0``, float32 or wider; ``inf`` where an absent class has target mass.

    References:
        Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions", 2022.

    Examples:
        >>> import torch
        >>> poly_loss(torch.tensor([[0.0, 0.0], [0.0, float("-inf")]]), torch.tensor([0, 0]))
        tensor([1.6931, 0.0000])
    """

    def of_odds(against: Tensor) -> Tensor:
        return F.softplus(against) + epsilon * against.sigmoid()

    return odds_loss(of_odds, logits, targets, weight=weight, dim=dim)


class PolyLoss(RowLoss):
    """Mean `poly_loss`, each row times the weight of its class.

    Args:
        epsilon: ``>= -1``; 0 is cross-entropy.
        weight: See `RowLoss`, as for the arguments below.
        ignore_index: The target of a row that does not count.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: If ``epsilon`` is below -1, ``weight`` negative, or ``reduction`` unknown.

    Examples:
        >>> import torch
        >>> PolyLoss(epsilon=1.0)(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(1.1931)
    """

    term_name = "poly"

    def __init__(
        self,
        epsilon: float = 2.0,
        weight: list[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        # Below -1 the loss would fall as a sure prediction becomes less sure.
        if not -1 <= epsilon < float("inf"):
            raise ValueError(f"epsilon must be >= -1, got {epsilon}")
        super().__init__(weight, ignore_index, reduction)
        self.epsilon = epsilon

    def of_rows(self, logits: Tensor, targets: Tensor, *, weight: Tensor | None, dim: int) -> Tensor:
        """See `poly_loss`."""
        return poly_loss(logits, targets, epsilon=self.epsilon, weight=weight, dim=dim)
