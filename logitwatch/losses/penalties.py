"""Penalties on logits that need no target: on the log-partition, on the norm, on confidence."""

from abc import abstractmethod

import torch
from torch import Tensor

from logitwatch.functional.numerics import upcast
from logitwatch.functional.uncertainty import log_partition, softmax_entropy
from logitwatch.losses.base import LogitLoss
from logitwatch.losses.inputs import (
    check_logits,
    check_non_negative,
    check_reduction,
    class_axis,
    counted_rows,
    reduce_rows,
    without_ignored,
)

__all__ = [
    "ConfidencePenalty",
    "LogitPenalty",
    "MaxLogitPenalty",
    "Penalty",
    "ZLoss",
    "confidence_penalty",
    "logit_penalty",
    "max_logit_penalty",
    "z_loss",
]


def z_loss(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Squared log-partition :math:`(\log Z)^2`, in nats squared. Pulls the normaliser to 1; not shift-invariant.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        A number ``>= 0``, float32 or wider; ``inf`` for a row whose classes are all absent.

    References:
        Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022.

    Examples:
        >>> z_loss(torch.tensor([[0.0, 0.0], [3.0, float("-inf")]]))
        tensor([0.4805, 9.0000])
    """
    return log_partition(logits, dim=dim).square()


def logit_penalty(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Squared Euclidean norm :math:`\lVert z \rVert_2^2` of the present classes. Not shift-invariant.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        A number ``>= 0``, float32 or wider.

    References:
        Dauphin & Cubuk, "Deconstructing the Regularization of BatchNorm", 2021.

    Examples:
        >>> logit_penalty(torch.tensor([[3.0, 4.0], [3.0, float("-inf")]]))
        tensor([25.,  9.])
    """
    z = upcast(logits)
    return z.masked_fill(z == -torch.inf, 0.0).square().sum(dim)


def max_logit_penalty(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Square of the largest logit :math:`(\max_k z_k)^2`. Not shift-invariant.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        A number ``>= 0``, float32 or wider; ``inf`` for a row whose classes are all absent.

    References:
        Yang et al., "Baichuan 2: Open Large-scale Language Models", 2023, as the max-z loss.

    Examples:
        >>> max_logit_penalty(torch.tensor([[3.0, -9.0], [-2.0, float("-inf")]]))
        tensor([9., 4.])
    """
    return upcast(logits).amax(dim).square()


def confidence_penalty(logits: Tensor, *, hinge: float | None = None, dim: int = -1) -> Tensor:
    r"""Negative entropy :math:`-H(p)`, in nats, exact: no constant inside the logarithm.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        hinge: An entropy :math:`\Gamma` in nats, above which there is no penalty: :math:`\max(0, \Gamma - H(p))`.
        dim: The class axis, which the result drops.

    Returns:
        A number in ``[-log(num_classes), 0]``, or with a hinge in ``[0, hinge]``, float32 or wider.

    References:
        Pereyra et al., "Regularizing Neural Networks by Penalizing Confident Output Distributions", 2017.

    Examples:
        >>> confidence_penalty(torch.tensor([[0.0, 0.0, float("-inf")], [0.0, 0.0, 0.0]]))
        tensor([-0.6931, -1.0986])
        >>> confidence_penalty(torch.tensor([[9.0, 0.0], [0.0, 0.0]]), hinge=0.5)
        tensor([0.4988, 0.0000])
    """
    entropy = softmax_entropy(logits, dim=dim)
    return -entropy if hinge is None else (hinge - entropy).clamp(min=0.0)


class Penalty(LogitLoss):
    """A weight times the mean, over the rows that count, of one number a row.

    Args:
        weight: What the mean is multiplied by, ``>= 0``.
        ignore_index: Rows with this target do not count.
        reduction: ``mean`` over the rows that count; ``sum``; ``none`` keeps each row, 0 where it does not count.

    Raises:
        ValueError: If ``weight`` is negative or ``reduction`` unknown.
    """

    def __init__(self, weight: float, ignore_index: int = -100, reduction: str = "mean") -> None:
        check_non_negative("weight", weight)
        check_reduction(reduction)
        super().__init__(ignore_index)
        self.weight = weight
        self.reduction = reduction

    @abstractmethod
    def of_rows(self, logits: Tensor, *, dim: int) -> Tensor:
        """The number of each row."""

    def forward(self, logits: Tensor, targets: Tensor | None = None) -> Tensor:
        """See `LogitLoss.forward`."""
        check_logits(logits)
        counted = None if targets is None else counted_rows(logits, targets, self.ignore_index)
        z = logits if counted is None else without_ignored(logits, counted)
        value = self.weight * reduce_rows(self.of_rows(z, dim=class_axis(z)), counted, self.reduction)
        self.lend(value)
        return value

    def extra_repr(self) -> str:
        return f"weight={self.weight}, ignore_index={self.ignore_index}, reduction={self.reduction!r}"


class ZLoss(Penalty):
    """Mean `z_loss` over the rows that count, times a weight: keeps logits from drifting off together.

    Args:
        weight: What the mean is multiplied by, ``>= 0``.
        ignore_index: See `Penalty`, as for the argument below.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: If ``weight`` is negative or ``reduction`` unknown.

    Examples:
        >>> ZLoss(1.0)(torch.tensor([[3.0, float("-inf")], [8.0, 8.0]]), torch.tensor([0, -100]))
        tensor(9.)
    """

    term_name = "z_loss"

    def __init__(self, weight: float = 1e-4, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(weight, ignore_index, reduction)

    def of_rows(self, logits: Tensor, *, dim: int) -> Tensor:
        """See `z_loss`."""
        return z_loss(logits, dim=dim)


class LogitPenalty(Penalty):
    """Mean `logit_penalty` over the rows that count, times a weight: keeps the norm of the logits small.

    Args:
        weight: What the mean is multiplied by, ``>= 0``.
        ignore_index: See `Penalty`, as for the argument below.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: If ``weight`` is negative or ``reduction`` unknown.

    Examples:
        >>> LogitPenalty(0.5)(torch.tensor([[3.0, 4.0], [0.0, float("-inf")]]))
        tensor(6.2500)
    """

    term_name = "logit_penalty"

    def of_rows(self, logits: Tensor, *, dim: int) -> Tensor:
        """See `logit_penalty`."""
        return logit_penalty(logits, dim=dim)


class MaxLogitPenalty(Penalty):
    """Mean `max_logit_penalty` over the rows that count, times a weight: keeps the largest logit near 0.

    Args:
        weight: What the mean is multiplied by, ``>= 0``.
        ignore_index: See `Penalty`, as for the argument below.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: If ``weight`` is negative or ``reduction`` unknown.

    Examples:
        >>> MaxLogitPenalty(0.5)(torch.tensor([[3.0, -9.0], [-2.0, float("-inf")]]))
        tensor(3.2500)
    """

    term_name = "max_logit_penalty"

    def __init__(self, weight: float = 2e-4, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(weight, ignore_index, reduction)

    def of_rows(self, logits: Tensor, *, dim: int) -> Tensor:
        """See `max_logit_penalty`."""
        return max_logit_penalty(logits, dim=dim)


class ConfidencePenalty(Penalty):
    """Mean `confidence_penalty` over the rows that count, times a weight: rewards entropy, so the value is ``<= 0``.

    With a hinge it is ``>= 0`` and leaves alone what is uncertain enough.

    Args:
        weight: What the mean is multiplied by, ``>= 0``.
        ignore_index: See `Penalty`, as for the argument below.
        reduction: ``mean``, ``sum`` or ``none``.
        hinge: See `confidence_penalty`; ``>= 0``, or None to reward any entropy.

    Raises:
        ValueError: If ``weight`` is negative or ``reduction`` unknown.

    Examples:
        >>> ConfidencePenalty(0.1)(torch.tensor([[0.0, 0.0, float("-inf")]]))
        tensor(-0.0693)
    """

    term_name = "confidence_penalty"

    def __init__(
        self, weight: float, ignore_index: int = -100, reduction: str = "mean", hinge: float | None = None
    ) -> None:
        super().__init__(weight, ignore_index, reduction)
        if hinge is not None:
            check_non_negative("hinge", hinge)
        self.hinge = hinge

    def of_rows(self, logits: Tensor, *, dim: int) -> Tensor:
        """See `confidence_penalty`."""
        return confidence_penalty(logits, hinge=self.hinge, dim=dim)
