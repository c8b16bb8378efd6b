"""A loss that is one number a row: class weights, ignored rows, soft targets and reductions, decided once."""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from logitwatch.functional.scores import class_log_odds, target_log_odds
from logitwatch.losses.base import LogitLoss
from logitwatch.losses.inputs import (
    along_classes,
    check_logits,
    check_reduction,
    class_axis,
    class_weights,
    counted_rows,
    lifted_weight,
    reduce_rows,
    without_ignored,
)

__all__ = ["RowLoss", "odds_loss"]


def odds_loss(
    of_odds: Callable[[Tensor], Tensor],
    logits: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    dim: int = -1,
) -> Tensor:
    r"""Expectation under the targets of a loss that depends on a class only by its log-odds against all others.

    .. math:: \sum_k w_k q_k\, f\big(\log\tfrac{1 - p_k}{p_k}\big)

    Args:
        of_odds: ``f``, of a tensor, element by element. Of log-odds *against* a class: where they are ``a``,
            :math:`-\log p = \mathrm{softplus}(a)` and :math:`1 - p = \sigma(a)` without cancellation.
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        targets: Class indices, shaped as ``logits`` without ``dim``; or weights of classes, shaped as ``logits``.
        weight: Class weights ``[classes]``.
        dim: The class axis, which the result drops.

    Returns:
        Loss of each example, float32 or wider. A class of target 0 adds 0 whatever its logit.

    Examples:
        >>> odds_loss(torch.sigmoid, torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor([0.5000])
    """
    if not (targets.shape == logits.shape and targets.is_floating_point()):
        losses = of_odds(-target_log_odds(logits, targets, dim=dim))
        return losses if weight is None else weight[targets] * losses
    against = (-class_log_odds(logits, dim=dim)).masked_fill(targets == 0, 0.0)
    mass = targets if weight is None else targets * along_classes(weight, logits, dim)
    return (mass * of_odds(against)).sum(dim)


class RowLoss(LogitLoss):
    r"""A loss of each row, times the weight of its class, reduced over the rows that count.

    With class indices the row of target ``y`` is :math:`w_y l_y`, and ``mean`` divides the sum by that of :math:`w_y`
    over the rows that count. With soft targets it is :math:`\sum_k w_k q_k l_k`, and ``mean`` divides by the number of
    rows. Both are torch's conventions for cross-entropy. Where nothing counts the value is 0, with zero gradient.

    Args:
        weight: Class weights ``[classes]``, ``>= 0``.
        ignore_index: Rows with this target do not count; it may be a class. Soft targets name no row to ignore.
        reduction: ``mean``, ``sum``, or ``none``, which keeps each row, 0 where it does not count.

    Raises:
        ValueError: If ``weight`` is negative or ``reduction`` unknown; at a call, if shapes do not fit or a target is
            no class.
        TypeError: At a call, if logits are not floating point, or targets neither integers nor probabilities.
    """

    weight: Tensor | None

    def __init__(
        self, weight: list[float] | Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        check_reduction(reduction)
        super().__init__(ignore_index)
        self.register_buffer("weight", class_weights(weight))
        self.reduction = reduction

    @abstractmethod
    def of_rows(self, logits: Tensor, targets: Tensor, *, weight: Tensor | None, dim: int) -> Tensor:
        """The weighted loss of each row; targets are int64 indices, all of them classes, or probabilities."""

    def forward(self, logits: Tensor, targets: Tensor | None = None) -> Tensor:
        """See `LogitLoss.forward`; targets are required."""
        check_logits(logits)
        if targets is None:
            raise TypeError(f"{type(self).__name__} needs targets, got None")
        counted = counted_rows(logits, targets, self.ignore_index)
        weight, dim = lifted_weight(self.weight, logits), class_axis(logits)
        if counted is None:
            value = reduce_rows(self.of_rows(logits, targets, weight=weight, dim=dim), None, self.reduction)
        else:
            index = torch.where(counted, targets.long(), 0)
            rows = self.of_rows(without_ignored(logits, counted), index, weight=weight, dim=dim)
            value = reduce_rows(rows, counted, self.reduction, None if weight is None else weight[index])
        self.lend(value)
        return value

    def extra_repr(self) -> str:
        return f"ignore_index={self.ignore_index}, reduction={self.reduction!r}"
