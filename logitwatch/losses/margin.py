"""Label smoothing by a margin: only logits that fall further behind the largest than that are pulled back."""

import torch
from torch import Tensor

from logitwatch.functional.numerics import upcast
from logitwatch.losses.cross_entropy import softmax_cross_entropy
from logitwatch.losses.inputs import along_classes, check_non_negative
from logitwatch.losses.rows import RowLoss

__all__ = ["MarginLabelSmoothing", "margin_excess", "margin_label_smoothing"]


def margin_excess(logits: Tensor, *, margin: float = 10.0, dim: int = -1) -> Tensor:
    r"""How far the logits are behind the largest beyond a margin, in nats, on average over classes. Shift-invariant.

    .. math:: \tfrac{1}{|P|} \sum_{k \in P} \max(0,\ \max_j z_j - z_k - m)

    with :math:`P` the present classes, those above ``-inf``.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        margin: ``m >= 0``.
        dim: The class axis, which the result drops.

    Returns:
        A number ``>= 0``, float32 or wider.

    Examples:
        >>> margin_excess(torch.tensor([[12.0, 5.0, 0.0, float("-inf")]]))
        tensor([0.6667])
    """
    z = upcast(logits)
    present = z > -torch.inf
    excess = (z.amax(dim, keepdim=True) - z - margin).clamp(min=0.0).masked_fill(~present, 0.0)
    return excess.sum(dim) / present.sum(dim).clamp(min=1)


def margin_label_smoothing(
    logits: Tensor,
    targets: Tensor,
    *,
    margin: float = 10.0,
    alpha: float = 0.1,
    weight: Tensor | None = None,
    dim: int = -1,
) -> Tensor:
    r"""Cross-entropy plus ``alpha`` times `margin_excess`, in nats. Shift-invariant.

    .. math:: w_y \Big(-\log p_y + \tfrac{\alpha}{|P|} \sum_{k \in P} \max(0,\ \max_j z_j - z_k - m)\Big)

    The penalty is a mean over classes, as in the code of the authors, whose ``alpha`` of 0.1 this is; their formula
    has a sum, and so an ``alpha`` smaller by the number of classes. A margin of 0 penalises as label smoothing does.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        targets: Class indices, shaped as ``logits`` without ``dim``; or probabilities, shaped as ``logits``.
        margin: ``m >= 0``.
        alpha: ``>= 0``.
        weight: Class weights ``[classes]``; soft targets weigh the penalty by their mean weight.
        dim: The class axis, which the result drops.

    Returns:
        Loss of each example ``>= 0``, float32 or wider; ``inf`` where an absent class has target mass.

    References:
        Liu et al., "The Devil is in the Margin: Margin-based Label Smoothing for Network Calibration", 2022.

    Examples:
        >>> margin_label_smoothing(torch.tensor([[12.0, 0.0]]), torch.tensor([0]))
        tensor([0.1000])
    """
    logits = upcast(logits)  # once, lest two gradients be rounded to half precision before they are added
    penalty = alpha * margin_excess(logits, margin=margin, dim=dim)
    if weight is not None:
        soft = targets.shape == logits.shape and targets.is_floating_point()
        penalty = penalty * ((targets * along_classes(weight, logits, dim)).sum(dim) if soft else weight[targets])
    return softmax_cross_entropy(logits, targets, weight=weight, dim=dim) + penalty


class MarginLabelSmoothing(RowLoss):
    """Mean `margin_label_smoothing` over the rows that count, the penalty of an ignored row left out too.

    Args:
        margin: How far behind the largest a logit may be without a penalty, ``>= 0``.
        alpha: Weight of the mean excess over that, ``>= 0``.
        weight: See `RowLoss`, as for the arguments below.
        ignore_index: The target of a row that does not count.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: If ``margin``, ``alpha`` or ``weight`` is negative, or ``reduction`` unknown.

    Examples:
        >>> MarginLabelSmoothing()(torch.tensor([[12.0, 0.0], [99.0, 0.0]]), torch.tensor([0, -100]))
        tensor(0.1000)
    """

    term_name = "margin_label_smoothing"

    def __init__(
        self,
        margin: float = 10.0,
        alpha: float = 0.1,
        weight: list[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        check_non_negative("margin", margin)
        check_non_negative("alpha", alpha)
        super().__init__(weight, ignore_index, reduction)
        self.margin = margin
        self.alpha = alpha

    def of_rows(self, logits: Tensor, targets: Tensor, *, weight: Tensor | None, dim: int) -> Tensor:
        """See `margin_label_smoothing`."""
        return margin_label_smoothing(logits, targets, margin=self.margin, alpha=self.alpha, weight=weight, dim=dim)
