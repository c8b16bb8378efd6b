"""Penalties on logits that need no target: on the log-partition, on the norm, on confidence."""

from abc import abstractmethod

import torch
from torch import Tensor

from logitwatch.functional.numerics import upcast
from logitwatch.functional.uncertainty import log_partition, softmax_entropy
from logitwatch.losses.base import LogitLoss
from logitwatch.losses.inputs import check_logits, check_penalty_weight, class_axis, mean_over_counted

__all__ = ["ConfidencePenalty", "LogitPenalty", "Penalty", "ZLoss", "confidence_penalty", "logit_penalty", "z_loss"]


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


def confidence_penalty(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Negative entropy :math:`-H(p)`, in nats, exact: no constant inside the logarithm.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        A number in ``[-log(num_classes), 0]``, float32 or wider.

    References:
        Pereyra et al., "Regularizing Neural Networks by Penalizing Confident Output Distributions", 2017.

    Examples:
        >>> confidence_penalty(torch.tensor([[0.0, 0.0, float("-inf")], [0.0, 0.0, 0.0]]))
        tensor([-0.6931, -1.0986])
    """
    return -softmax_entropy(logits, dim=dim)


class Penalty(LogitLoss):
    """A weight times the mean, over the rows that count, of one number a row.

    Args:
        weight: What the mean is multiplied by, ``>= 0``.
        ignore_index: Rows with this target do not count.

    Raises:
        ValueError: If ``weight`` is negative.
    """

    def __init__(self, weight: float, ignore_index: int = -100) -> None:
        check_penalty_weight(weight)
        super().__init__(ignore_index)
        self.weight = weight

    @abstractmethod
    def of_rows(self, logits: Tensor, *, dim: int) -> Tensor:
        """The number of each row."""

    def forward(self, logits: Tensor, targets: Tensor | None = None) -> Tensor:
        """See `LogitLoss.forward`."""
        check_logits(logits)
        values = self.of_rows(logits, dim=class_axis(logits))
        value = self.weight * mean_over_counted(values, logits, targets, self.ignore_index)
        self.lend(value)
        return value

    def extra_repr(self) -> str:
        return f"weight={self.weight}"


class ZLoss(Penalty):
    """Mean `z_loss` over the rows that count, times a weight: keeps logits from drifting off together.

    Args:
        weight: What the mean is multiplied by, ``>= 0``.
        ignore_index: Rows with this target do not count.

    Raises:
        ValueError: If ``weight`` is negative.

    Examples:
        >>> ZLoss(1.0)(torch.tensor([[3.0, float("-inf")], [8.0, 8.0]]), torch.tensor([0, -100]))
        tensor(9.)
    """

    term_name = "z_loss"

    def __init__(self, weight: float = 1e-4, ignore_index: int = -100) -> None:
        super().__init__(weight, ignore_index)

    def of_rows(self, logits: Tensor, *, dim: int) -> Tensor:
        """See `z_loss`."""
        return z_loss(logits, dim=dim)


class LogitPenalty(Penalty):
    """Mean `logit_penalty` over the rows that count, times a weight: keeps the norm of the logits small.

    Args:
        weight: What the mean is multiplied by, ``>= 0``.
        ignore_index: Rows with this target do not count.

    Raises:
        ValueError: If ``weight`` is negative.

    Examples:
        >>> LogitPenalty(0.5)(torch.tensor([[3.0, 4.0], [0.0, float("-inf")]]))
        tensor(6.2500)
    """

    term_name = "logit_penalty"

    def of_rows(self, logits: Tensor, *, dim: int) -> Tensor:
        """See `logit_penalty`."""
        return logit_penalty(logits, dim=dim)


class ConfidencePenalty(Penalty):
    """Mean `confidence_penalty` over the rows that count, times a weight: rewards entropy, so the value is ``<= 0``.

    Args:
        weight: What the mean is multiplied by, ``>= 0``.
        ignore_index: Rows with this target do not count.

    Raises:
        ValueError: If ``weight`` is negative.

    Examples:
        >>> ConfidencePenalty(0.1)(torch.tensor([[0.0, 0.0, float("-inf")]]))
        tensor(-0.0693)
    """

    term_name = "confidence_penalty"

    def of_rows(self, logits: Tensor, *, dim: int) -> Tensor:
        """See `confidence_penalty`."""
        return confidence_penalty(logits, dim=dim)
