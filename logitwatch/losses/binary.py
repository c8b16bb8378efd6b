"""Binary cross-entropy of many labels at once: each logit is a yes-or-no decision of its own."""

import torch
from torch import Tensor

from logitwatch.functional.numerics import upcast
from logitwatch.losses.base import LogitLoss
from logitwatch.losses.focal import focal_of_odds
from logitwatch.losses.inputs import (
    along_classes,
    check_fraction,
    check_logits,
    check_non_negative,
    check_reduction,
    class_axis,
    class_weights,
    lifted_weight,
    may_look,
    reduce_rows,
)

__all__ = ["BinaryCrossEntropyWithLogits", "binary_cross_entropy"]


def binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    pos_weight: Tensor | None = None,
) -> Tensor:
    r"""Binary cross-entropy of smoothed targets, focal if asked, in nats.

    .. math:: -w\, y' (1 - p)^\gamma \log p - (1 - y')\, p^\gamma \log(1 - p), \qquad
        p = \sigma(z),\quad y' = (1 - \epsilon)\, y + \tfrac{\epsilon}{2}

    An infinite logit, a decision that is made, gets no smoothing mass against it.

    Args:
        logits: Log-odds of yes, any shape.
        targets: Probabilities of yes, shaped as ``logits``, usually 0 or 1.
        label_smoothing: Mass spread over yes and no, in ``[0, 1]``.
        gamma: Focal exponent ``>= 0``; 0 is cross-entropy.
        pos_weight: Weight of yes, broadcast over ``logits``.

    Returns:
        Loss of each logit ``>= 0``, float32 or wider; ``inf`` where an infinite logit is wrong.

    References:
        Lin et al., "Focal Loss for Dense Object Detection", 2017; Szegedy et al., "Rethinking the Inception
        Architecture for Computer Vision", 2016.

    Examples:
        >>> z, y = torch.tensor([0.0, 200.0, float("-inf")]), torch.tensor([1.0, 0.0, 0.0])
        >>> binary_cross_entropy(z, y)
        tensor([  0.6931, 200.0000,   0.0000])
        >>> binary_cross_entropy(z, y, label_smoothing=0.5, gamma=2.0)
        tensor([  0.1733, 150.0000,   0.0000])
    """
    z = upcast(logits)
    y = targets.to(z.dtype)
    if label_smoothing > 0:
        y = torch.where(z.isinf(), y, (1 - label_smoothing) * y + label_smoothing / 2)
    # 0 * inf would be NaN in the products and in their gradients.
    yes = y * focal_of_odds(torch.where(y == 0, 0.0, -z), gamma)
    no = (1 - y) * focal_of_odds(torch.where(y == 1, 0.0, z), gamma)
    return (yes if pos_weight is None else pos_weight * yes) + no


class BinaryCrossEntropyWithLogits(LogitLoss):
    """Mean `binary_cross_entropy` over the labels that count, in place of `torch.nn.BCEWithLogitsLoss`.

    Labels are on the class axis: ``[C]``, ``[N, C]``, ``[N, C, d1, ...]``, with targets of the same shape. A target of
    ``ignore_index`` is a label nobody knows, and does not count. It may be added to penalties that treat logits one by
    one, as `LogitPenalty`; what is a softmax over classes has no meaning here.

    Args:
        weight: Weights of labels ``[C]``, ``>= 0``; as in torch the mean does not divide by them.
        ignore_index: The target of a label that does not count.
        reduction: ``mean`` over the labels that count, ``sum``, or ``none``, which keeps the shape of the logits.
        pos_weight: Weights of yes for each label ``[C]``, ``>= 0``.
        label_smoothing: Mass spread over yes and no, in ``[0, 1]``.
        gamma: Focal exponent ``>= 0``; 0 is cross-entropy.

    Raises:
        ValueError: If ``gamma`` or a weight is negative, ``label_smoothing`` outside ``[0, 1]``, or ``reduction``
            unknown; at a call, if shapes differ or a target is outside ``[0, 1]``.
        TypeError: At a call, if logits are not floating point, or there are no targets.

    Examples:
        >>> loss = BinaryCrossEntropyWithLogits()
        >>> loss(torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[1, -100, -100]]))
        tensor(0.6931)
    """

    term_name = "binary_cross_entropy"
    binary = True
    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        weight: list[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        pos_weight: list[float] | Tensor | None = None,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
    ) -> None:
        check_reduction(reduction)
        check_fraction("label_smoothing", label_smoothing)
        check_non_negative("gamma", gamma)
        super().__init__(ignore_index)
        self.register_buffer("weight", class_weights(weight))
        self.register_buffer("pos_weight", class_weights(pos_weight))
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.gamma = gamma

    def forward(self, logits: Tensor, targets: Tensor | None = None) -> Tensor:
        """See `LogitLoss.forward`; targets are required, and shaped as ``logits``."""
        check_logits(logits)
        if targets is None:
            raise TypeError("BinaryCrossEntropyWithLogits needs targets, got None")
        counted = self._counted(logits, targets)
        axis = class_axis(logits)
        weight, pos_weight = (lifted_weight(w, logits) for w in (self.weight, self.pos_weight))
        losses = binary_cross_entropy(
            logits.masked_fill(~counted, 0.0),
            targets,
            label_smoothing=self.label_smoothing,
            gamma=self.gamma,
            pos_weight=None if pos_weight is None else along_classes(pos_weight, logits, axis),
        )
        losses = losses if weight is None else along_classes(weight, logits, axis) * losses
        value = reduce_rows(losses, counted, self.reduction)
        self.lend(value)
        return value

    def extra_repr(self) -> str:
        smoothing = f"label_smoothing={self.label_smoothing}, gamma={self.gamma}"
        return f"ignore_index={self.ignore_index}, reduction={self.reduction!r}, {smoothing}"

    def _counted(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Which labels count, after a look at the targets where that is free."""
        if targets.shape != logits.shape:
            raise ValueError(f"targets must be shaped as logits, {tuple(logits.shape)}, got {tuple(targets.shape)}")
        counted = targets != self.ignore_index
        if may_look(targets):
            outside = counted & ~((targets >= 0) & (targets <= 1))
            if outside.any():
                got = targets[outside][0].item()
                raise ValueError(f"targets must be in [0, 1], or ignore_index ({self.ignore_index}), got {got}")
        return counted
