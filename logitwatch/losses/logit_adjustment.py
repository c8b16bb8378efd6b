"""Cross-entropy for classes that are not equally frequent: the prior is added to the logits while training."""

import math

import torch
from torch import Tensor

from logitwatch.functional.numerics import upcast
from logitwatch.losses.base import LogitLoss
from logitwatch.losses.cross_entropy import CrossEntropyLoss, softmax_cross_entropy
from logitwatch.losses.inputs import along_classes, check_logits, class_axis

__all__ = ["BalancedSoftmax", "LogitAdjustedCrossEntropy", "log_prior", "logit_adjusted_cross_entropy"]


def log_prior(class_counts: list[float] | Tensor) -> Tensor:
    r"""Logarithm of the share of each class, :math:`\log(n_k / \sum_j n_j)`, in nats.

    Args:
        class_counts: How often each class occurs in training, or any numbers in proportion to it, ``[classes]``.

    Returns:
        float32 ``[classes]``.

    Raises:
        ValueError: If a count is not above 0: such a class could never be predicted. Add 1 to every count.

    Examples:
        >>> log_prior([3, 1])
        tensor([-0.2877, -1.3863])
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64, device="cpu")
    if counts.ndim != 1 or not counts.numel():
        raise ValueError(f"class_counts must have one entry for each class, got shape {tuple(counts.shape)}")
    outside = (~(counts > 0) | (counts == torch.inf)).nonzero()
    if len(outside):
        k = int(outside[0])
        raise ValueError(f"class_counts must be > 0, got {counts[k].item()} for class {k}; 1 may be added to every one")
    return (counts.log() - counts.sum().log()).float()


def logit_adjusted_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    prior: Tensor,
    *,
    tau: float = 1.0,
    weight: Tensor | None = None,
    dim: int = -1,
) -> Tensor:
    r"""Cross-entropy of logits to which the log-prior is added, in nats. Shift-invariant, also in the prior.

    .. math:: -w_y \log \mathrm{softmax}(z + \tau \log \pi)_y

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        targets: Class indices, shaped as ``logits`` without ``dim``; or probabilities, shaped as ``logits``.
        prior: Logarithm of the share of each class, ``[classes]``; see `log_prior`.
        tau: 1 makes the logits predict as if all classes were equally frequent; 0 is cross-entropy.
        weight: Class weights ``[classes]``.
        dim: The class axis, which the result drops.

    Returns:
        Loss of each example, float32 or wider; ``inf`` where an absent class has target mass.

    References:
        Menon et al., "Long-tail Learning via Logit Adjustment", 2021.

    Examples:
        >>> logit_adjusted_cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), log_prior([3, 1]))
        tensor([1.3863])
    """
    return softmax_cross_entropy(_adjusted(logits, tau * prior, dim), targets, weight=weight, dim=dim)


class LogitAdjustedCrossEntropy(LogitLoss):
    """Mean `logit_adjusted_cross_entropy`. Trains with the prior added; predict with the logits as they are.

    Args:
        class_counts: How often each class occurs in training, ``> 0``.
        tau: 1 makes the logits predict as if all classes were equally frequent; 0 is cross-entropy.
        weight: See `CrossEntropyLoss`, as for the arguments below.
        ignore_index: The target of a row that does not count.
        reduction: ``mean``, ``sum`` or ``none``.
        label_smoothing: Mass moved from the target to all present classes, in ``[0, 1]``.

    Raises:
        ValueError: If a count is not above 0, ``tau`` is not finite, or an argument of the cross-entropy is refused;
            at a call, if there are not as many classes as counts.

    Examples:
        >>> LogitAdjustedCrossEntropy([3, 1])(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor(1.3863)
    """

    term_name = "logit_adjusted_cross_entropy"
    adjustment: Tensor

    def __init__(
        self,
        class_counts: list[float] | Tensor,
        tau: float = 1.0,
        weight: list[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        if not math.isfinite(tau):
            raise ValueError(f"tau must be finite, got {tau}")
        super().__init__(ignore_index)
        self.tau = tau
        self.register_buffer("adjustment", tau * log_prior(class_counts))
        self.cross_entropy = CrossEntropyLoss(weight, ignore_index, reduction, label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor | None = None) -> Tensor:
        """See `LogitLoss.forward`; targets are required."""
        check_logits(logits)
        value: Tensor = self.cross_entropy(_adjusted(logits, self.adjustment, class_axis(logits)), targets)
        # The rows of the inner loss are of adjusted logits, so only the value is lent.
        self.lend(value)
        return value

    def extra_repr(self) -> str:
        return f"tau={self.tau}"


class BalancedSoftmax(LogitLoss):
    """`LogitAdjustedCrossEntropy` with ``tau`` 1, under the name of Ren et al., who derive it from the counts.

    Args:
        class_counts: How often each class occurs in training, ``> 0``.
        weight: See `CrossEntropyLoss`, as for the arguments below.
        ignore_index: The target of a row that does not count.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: If a count is not above 0, or an argument of the cross-entropy is refused.

    References:
        Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", 2020.

    Examples:
        >>> BalancedSoftmax([3, 1])(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(0.2877)
    """

    term_name = "balanced_softmax"

    def __init__(
        self,
        class_counts: list[float] | Tensor,
        weight: list[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(ignore_index)
        self.adjusted = LogitAdjustedCrossEntropy(class_counts, 1.0, weight, ignore_index, reduction)

    def forward(self, logits: Tensor, targets: Tensor | None = None) -> Tensor:
        """See `LogitLoss.forward`; targets are required."""
        value: Tensor = self.adjusted(logits, targets)
        self.lend(value)
        return value


def _adjusted(logits: Tensor, adjustment: Tensor, dim: int) -> Tensor:
    z = upcast(logits)
    if adjustment.shape != (z.shape[dim],):
        raise ValueError(f"expected {adjustment.numel()} classes, as many as class_counts has, got {z.shape[dim]}")
    return z + along_classes(adjustment.to(z.dtype), z, dim)
