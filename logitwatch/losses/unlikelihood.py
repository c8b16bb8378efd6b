"""Unlikelihood: a loss of classes that should not be predicted, as tokens a text already has."""

import torch
import torch.nn.functional as F
from torch import Tensor

from logitwatch.losses.base import LogitLoss
from logitwatch.losses.inputs import (
    check_logits,
    check_reduction,
    class_axis,
    class_weights,
    counted_rows,
    lifted_weight,
    reduce_rows,
    without_ignored,
)
from logitwatch.losses.rows import odds_loss

__all__ = ["UnlikelihoodLoss", "unlikelihood_loss"]


def unlikelihood_loss(logits: Tensor, negatives: Tensor, *, weight: Tensor | None = None, dim: int = -1) -> Tensor:
    r"""Negative log-probability that a class is *not* predicted, in nats. Shift-invariant.

    .. math:: -w_c \log(1 - p_c) \qquad\text{or}\qquad -\sum_k w_k c_k \log(1 - p_k)

    from the log-odds, so that it neither cancels nor becomes infinite as ``p`` rounds to 1.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        negatives: Class indices, shaped as ``logits`` without ``dim``; or how much each class is unwanted, floating
            point ``>= 0``, shaped as ``logits``.
        weight: Class weights ``[classes]``.
        dim: The class axis, which the result drops.

    Returns:
        Loss of each example ``>= 0``, float32 or wider; ``inf`` where no other class is present.

    References:
        Welleck et al., "Neural Text Generation with Unlikelihood Training", 2020.

    Examples:
        >>> unlikelihood_loss(torch.tensor([[50.0, 0.0, 0.0], [0.0, 0.0, float("-inf")]]), torch.tensor([0, 2]))
        tensor([49.3069,  0.0000])
    """
    return odds_loss(lambda against: F.softplus(-against), logits, negatives, weight=weight, dim=dim)


class UnlikelihoodLoss(LogitLoss):
    """Mean `unlikelihood_loss` over the rows that count. Add it to a loss of the targets.

    The unwanted classes are an argument of the call, also of that of a sum: ``loss(logits, targets, negatives=...)``.
    Targets only say which rows count, and may be None; a class that is the target of its row is not unwanted there. A
    row without an unwanted class counts and adds 0.

    Args:
        weight: Class weights ``[classes]``, ``>= 0``; the mean does not divide by them.
        ignore_index: Rows with this target do not count, and rows with this negative have none.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: If ``weight`` is negative or ``reduction`` unknown; at a call, if shapes do not fit or a negative is
            no class.
        TypeError: At a call, if there are no negatives, or of a wrong type.

    Examples:
        >>> from logitwatch.losses import CrossEntropyLoss
        >>> logits, targets, negatives = torch.zeros(2, 2), torch.tensor([0, 0]), torch.tensor([1, -100])
        >>> UnlikelihoodLoss()(logits, targets, negatives=negatives)
        tensor(0.3466)
        >>> (CrossEntropyLoss() + UnlikelihoodLoss())(logits, targets, negatives=torch.tensor([[1, 1], [1, 0]]).bool())
        tensor(1.0397)
    """

    term_name = "unlikelihood"
    further_inputs = ("negatives",)
    weight: Tensor | None

    def __init__(
        self, weight: list[float] | Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        check_reduction(reduction)
        super().__init__(ignore_index)
        self.register_buffer("weight", class_weights(weight))
        self.reduction = reduction

    def forward(self, logits: Tensor, targets: Tensor | None = None, negatives: Tensor | None = None) -> Tensor:
        """See `LogitLoss.forward`.

        Args:
            logits: As there.
            targets: As there.
            negatives: One unwanted class a row, shaped as class indices; or a mask of them or how much each is
                unwanted, shaped as ``logits``.
        """
        check_logits(logits)
        if negatives is None:
            raise TypeError("UnlikelihoodLoss needs negatives=..., got None")
        counted = None if targets is None else counted_rows(logits, targets, self.ignore_index)
        if negatives.dtype == torch.bool and negatives.shape == logits.shape:
            negatives = negatives.to(torch.float32)
        unwanted = counted_rows(logits, negatives, self.ignore_index, name="negatives")
        dim = class_axis(logits)
        z = logits if counted is None else without_ignored(logits, counted)
        wanted = None if counted is None or targets is None else torch.where(counted, targets.long(), 0)
        if unwanted is None:
            mass = negatives if wanted is None else negatives.scatter(dim, wanted.unsqueeze(dim), 0.0)
        else:
            mass = torch.where(unwanted, negatives.long(), 0)
            unwanted = unwanted if wanted is None else unwanted & (mass != wanted)
        rows = unlikelihood_loss(z, mass, weight=lifted_weight(self.weight, logits), dim=dim)
        rows = rows if unwanted is None else torch.where(unwanted, rows, 0.0)
        value = reduce_rows(rows, counted, self.reduction)
        self.lend(value)
        return value

    def extra_repr(self) -> str:
        return f"ignore_index={self.ignore_index}, reduction={self.reduction!r}"
