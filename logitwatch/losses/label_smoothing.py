"""Cross-entropy with label smoothing on by default."""

from torch import Tensor

from logitwatch.losses.base import LogitLoss, evaluate
from logitwatch.losses.cross_entropy import CrossEntropyLoss

__all__ = ["LabelSmoothingCrossEntropy"]


class LabelSmoothingCrossEntropy(LogitLoss):
    r"""`CrossEntropyLoss` under the name and default that smoothing goes by.

    .. math:: (1 - \epsilon)(-\log p_y) + \epsilon\, \tfrac{1}{|P|} \sum_{k \in P} (-\log p_k)

    Args:
        smoothing: Mass moved from the target to all present classes, in ``[0, 1]``.
        weight: See `CrossEntropyLoss`, as for the arguments below.
        ignore_index: The target of a row that does not count.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: If ``smoothing`` is outside ``[0, 1]`` or ``reduction`` unknown.

    References:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016; Müller et al., "When Does
        Label Smoothing Help?", 2019: calibrates a network and blurs what it knows of similar classes.

    Examples:
        >>> import torch
        >>> loss = LabelSmoothingCrossEntropy(0.2)
        >>> loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])), loss(torch.zeros(1, 2), torch.tensor([-100]))
        (tensor(0.4133), tensor(0.))
    """

    term_name = "label_smoothing_cross_entropy"

    def __init__(
        self,
        smoothing: float = 0.1,
        weight: list[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(ignore_index)
        self.cross_entropy = CrossEntropyLoss(weight, ignore_index, reduction, smoothing)

    def forward(self, logits: Tensor, targets: Tensor | None = None) -> Tensor:
        """See `LogitLoss.forward`; targets are required."""
        value, lent = evaluate(self.cross_entropy, logits, targets, lend=self.asked)
        self.lend(value, lent.get("rows"))
        return value
