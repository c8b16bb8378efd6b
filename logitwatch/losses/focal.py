"""Focal losses: cross-entropy that turns away from what is already predicted well."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from logitwatch.functional.numerics import UNDERFLOW, upcast
from logitwatch.functional.scores import target_log_odds
from logitwatch.losses.inputs import check_non_negative
from logitwatch.losses.rows import RowLoss, odds_loss

__all__ = [
    "DualFocalLoss",
    "FocalLoss",
    "ScheduledFocalLoss",
    "dual_focal_loss",
    "focal_loss",
    "focal_of_odds",
    "scheduled_focal_loss",
    "scheduled_gamma",
]

# Ghosh et al. and Mukhoti et al. call this FLSD-53: 5 for what is hopeless, 3 for the rest.
FLSD_GAMMAS = (5.0, 3.0)
FLSD_BOUNDS = (0.2,)


def focal_of_odds(against: Tensor, gamma: float | Tensor) -> Tensor:
    r"""The focal loss :math:`-(1 - p)^\gamma \log p`, in nats, of the log-odds against ``p``.

    .. math:: e^{-\gamma\,\mathrm{softplus}(-a)}\ \mathrm{softplus}(a), \qquad a = \log\tfrac{1 - p}{p}

    Nothing cancels, so that value and gradient are finite for every ``gamma >= 0``, also where ``p`` rounds to 1.

    Args:
        against: Log-odds against the class, float32 or wider; ``inf`` where it is absent.
        gamma: ``>= 0``, one number or one for each element.

    Returns:
        Loss ``>= 0``, shaped as ``against``.

    Examples:
        >>> focal_of_odds(torch.tensor([0.0, -200.0, float("inf")]), 2.0)
        tensor([0.1733, 0.0000,    inf])
    """
    # Beyond these the factor is 0 or 1 to the last bit; a clamp sends no 0 * inf backward.
    limit = -UNDERFLOW[against.dtype]
    return torch.exp(-gamma * F.softplus(-against.clamp(-limit, limit))) * F.softplus(against)


def focal_loss(
    logits: Tensor, targets: Tensor, *, gamma: float | Tensor = 2.0, weight: Tensor | None = None, dim: int = -1
) -> Tensor:
    r"""Focal loss, in nats. Shift-invariant.

    .. math:: -w_y (1 - p_y)^\gamma \log p_y \qquad\text{or}\qquad -\sum_k w_k q_k (1 - p_k)^\gamma \log p_k

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        targets: Class indices, shaped as ``logits`` without ``dim``; or probabilities, shaped as ``logits``.
        gamma: ``>= 0``; 0 is cross-entropy. Or one for each row, with class indices.
        weight: Class weights ``[classes]``.
        dim: The class axis, which the result drops.

    Returns:
        Loss of each example ``>= 0``, float32 or wider; ``inf`` where an absent class has target mass.

    References:
        Lin et al., "Focal Loss for Dense Object Detection", 2017.

    Examples:
        >>> logits = torch.tensor([[0.0, 0.0], [60.0, float("-inf")]])
        >>> focal_loss(logits, torch.tensor([0, 0]), gamma=0.5)
        tensor([0.4901, 0.0000])
    """
    return odds_loss(lambda against: focal_of_odds(against, gamma), logits, targets, weight=weight, dim=dim)


def scheduled_gamma(
    probability: Tensor, *, gammas: Sequence[float] = FLSD_GAMMAS, bounds: Sequence[float] = FLSD_BOUNDS
) -> Tensor:
    """The exponent for each probability of a target: ``gammas[i]`` from ``bounds[i - 1]`` to below ``bounds[i]``.

    Args:
        probability: Probabilities, any shape.
        gammas: One exponent more than there are bounds.
        bounds: Ascending probabilities.

    Returns:
        Exponents shaped as ``probability``, without a gradient.

    Examples:
        >>> scheduled_gamma(torch.tensor([0.0, 0.19, 0.2, 1.0]))
        tensor([5., 5., 3., 3.])
    """
    p = probability.detach()
    gamma = torch.full_like(p, gammas[0])
    for bound, following in zip(bounds, gammas[1:], strict=True):
        gamma = torch.where(p >= bound, following, gamma)
    return gamma


def scheduled_focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    gammas: Sequence[float] = FLSD_GAMMAS,
    bounds: Sequence[float] = FLSD_BOUNDS,
    weight: Tensor | None = None,
    dim: int = -1,
) -> Tensor:
    """Focal loss, in nats, whose exponent depends on the probability of the target; FLSD-53 by default.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        targets: Class indices, shaped as ``logits`` without ``dim``; or probabilities, shaped as ``logits``.
        gammas: See `scheduled_gamma`, as for ``bounds``.
        bounds: Ascending probabilities.
        weight: Class weights ``[classes]``.
        dim: The class axis, which the result drops.

    Returns:
        Loss of each example ``>= 0``, float32 or wider. It jumps down where a probability crosses a bound.

    References:
        Mukhoti et al., "Calibrating Deep Neural Networks using Focal Loss", 2020.

    Examples:
        >>> scheduled_focal_loss(torch.tensor([[0.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0]))
        tensor([0.0866, 8.9946])
    """

    def of_odds(against: Tensor) -> Tensor:
        return focal_of_odds(against, scheduled_gamma((-against).sigmoid(), gammas=gammas, bounds=bounds))

    return odds_loss(of_odds, logits, targets, weight=weight, dim=dim)


def dual_focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, dim: int = -1) -> Tensor:
    r"""Dual focal loss, in nats: focal, but for the gap to the class that comes next below the target. Shift-invariant.

    .. math:: -(1 - p_y + p_j)^\gamma \log p_y, \qquad p_j = \max\{p_i : p_i < p_y\}

    with :math:`p_j = 0` where no class is below the target.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        targets: Class indices, shaped as ``logits`` without ``dim``.
        gamma: ``>= 0``; 0 is cross-entropy.
        dim: The class axis, which the result drops.

    Returns:
        Loss of each example ``>= 0``, float32 or wider; ``inf`` where the target is absent.

    References:
        Tao et al., "Dual Focal Loss for Calibration", 2023.

    Examples:
        >>> dual_focal_loss(torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([0]), gamma=1.0)
        tensor([0.3506])
    """
    z = upcast(logits)
    limit = -UNDERFLOW[z.dtype]
    against = -target_log_odds(z, targets, dim=dim)
    target = z.gather(dim, targets.unsqueeze(dim))
    below = z.masked_fill(z >= target, -torch.inf)
    index = below.detach().argmax(dim, keepdim=True)
    none = below.gather(dim, index) == -torch.inf
    below_target = z.gather(dim, index) - target
    log_ratio = below_target.masked_fill(none, -torch.inf).squeeze(dim)
    near = against.clamp(-limit, limit)
    # 1 - p_y + p_j = p_y (exp(a) + p_j / p_y)
    log_base = torch.logaddexp(near, log_ratio) - F.softplus(near)
    return torch.exp(gamma * log_base) * F.softplus(against)


class FocalLoss(RowLoss):
    """Mean `focal_loss`, each row times the weight of its class.

    Args:
        gamma: ``>= 0``; 0 is cross-entropy.
        weight: See `RowLoss`, as for the arguments below.
        ignore_index: The target of a row that does not count.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: If ``gamma`` or ``weight`` is negative, or ``reduction`` unknown.

    Examples:
        >>> loss = FocalLoss(gamma=2.0)
        >>> loss(torch.tensor([[0.0, 0.0]]), torch.tensor([0])), loss(torch.zeros(1, 2), torch.tensor([-100]))
        (tensor(0.1733), tensor(0.))
    """

    term_name = "focal"

    def __init__(
        self,
        gamma: float = 2.0,
        weight: list[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        check_non_negative("gamma", gamma)
        super().__init__(weight, ignore_index, reduction)
        self.gamma = gamma

    def of_rows(self, logits: Tensor, targets: Tensor, *, weight: Tensor | None, dim: int) -> Tensor:
        """See `focal_loss`."""
        return focal_loss(logits, targets, gamma=self.gamma, weight=weight, dim=dim)


class ScheduledFocalLoss(RowLoss):
    """Mean `scheduled_focal_loss`, each row times the weight of its class; FLSD-53 by default.

    Args:
        gammas: Exponents ``>= 0``, one more than there are bounds.
        bounds: Ascending probabilities of the target at which the next exponent begins.
        weight: See `RowLoss`, as for the arguments below.
        ignore_index: The target of a row that does not count.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: If an exponent or ``weight`` is negative, bounds do not ascend in ``(0, 1)``, their number is not
            one less than that of the exponents, or ``reduction`` is unknown.

    Examples:
        >>> ScheduledFocalLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(0.0866)
    """

    term_name = "scheduled_focal"

    def __init__(
        self,
        gammas: Sequence[float] = FLSD_GAMMAS,
        bounds: Sequence[float] = FLSD_BOUNDS,
        weight: list[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        for gamma in gammas:
            check_non_negative("gamma", gamma)
        if len(gammas) != len(bounds) + 1:
            raise ValueError(f"expected one exponent more than bounds, got {len(gammas)} and {len(bounds)}")
        edges = [0.0, *bounds, 1.0]
        if not all(low < high for low, high in pairwise(edges)):
            raise ValueError(f"bounds must ascend in (0, 1), got {list(bounds)}")
        super().__init__(weight, ignore_index, reduction)
        self.gammas = tuple(gammas)
        self.bounds = tuple(bounds)

    def of_rows(self, logits: Tensor, targets: Tensor, *, weight: Tensor | None, dim: int) -> Tensor:
        """See `scheduled_focal_loss`."""
        return scheduled_focal_loss(logits, targets, gammas=self.gammas, bounds=self.bounds, weight=weight, dim=dim)


class DualFocalLoss(RowLoss):
    """Mean `dual_focal_loss`, each row times the weight of its class. Takes class indices only.

    Args:
        gamma: ``>= 0``; 0 is cross-entropy.
        weight: See `RowLoss`, as for the arguments below.
        ignore_index: The target of a row that does not count.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: If ``gamma`` or ``weight`` is negative, or ``reduction`` unknown.
        TypeError: At a call, if targets are probabilities: the class next below is that of one target.

    Examples:
        >>> DualFocalLoss(gamma=1.0)(torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([0]))
        tensor(0.3506)
    """

    term_name = "dual_focal"

    def __init__(
        self,
        gamma: float = 2.0,
        weight: list[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        check_non_negative("gamma", gamma)
        super().__init__(weight, ignore_index, reduction)
        self.gamma = gamma

    def of_rows(self, logits: Tensor, targets: Tensor, *, weight: Tensor | None, dim: int) -> Tensor:
        """See `dual_focal_loss`."""
        if targets.shape == logits.shape:
            raise TypeError(f"DualFocalLoss takes class indices, got probabilities of shape {tuple(targets.shape)}")
        losses = dual_focal_loss(logits, targets, gamma=self.gamma, dim=dim)
        return losses if weight is None else weight[targets] * losses
