"""Several predictions of one example made one, and how much they disagree. Members lie on an axis of their own."""

import math

import torch
from torch import Tensor

from logitwatch.functional.numerics import upcast
from logitwatch.functional.uncertainty import softmax_entropy

__all__ = ["average_logits", "mixture_of_probabilities", "mutual_information"]


def average_logits(logits: Tensor, *, member_dim: int = 0, dim: int = -1) -> Tensor:
    r"""Mean log-probabilities of the members: the geometric pool, :math:`z_k = \frac{1}{M} \sum_m \log p_{mk}`.

    Each member is normalised first, so that no member counts for more by the offset of its logits.

    Args:
        logits: Unnormalised log-probabilities, with members on ``member_dim`` and classes on ``dim``.
        member_dim: The axis of the members, which the result drops.
        dim: The class axis.

    Returns:
        Logits of the pool, float32 or wider; ``-inf`` for a class any member rules out.

    References:
        Heskes, "Selecting Weighting Factors in Logarithmic Opinion Pools", 1998.

    Examples:
        >>> average_logits(torch.tensor([[0.0, 0.0], [100.0, 100.0]])).exp()
        tensor([0.5000, 0.5000])
    """
    return torch.log_softmax(upcast(logits), dim).mean(member_dim)


def mixture_of_probabilities(logits: Tensor, *, member_dim: int = 0, dim: int = -1) -> Tensor:
    r"""Log of the mean probability of the members: the linear pool, :math:`z_k = \log \frac{1}{M} \sum_m p_{mk}`.

    Args:
        logits: Unnormalised log-probabilities, with members on ``member_dim`` and classes on ``dim``.
        member_dim: The axis of the members, which the result drops.
        dim: The class axis.

    Returns:
        Log-probabilities of the mixture, float32 or wider; ``-inf`` for a class every member rules out.

    References:
        Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles", 2017.

    Examples:
        >>> mixture_of_probabilities(torch.tensor([[0.0, float("-inf")], [0.0, 0.0]])).exp()
        tensor([0.7500, 0.2500])
    """
    members = logits.shape[member_dim]
    return torch.logsumexp(torch.log_softmax(upcast(logits), dim), member_dim) - math.log(members)


def mutual_information(logits: Tensor, *, member_dim: int = 0, dim: int = -1) -> Tensor:
    r"""How much the members disagree, in nats: entropy of the mixture less mean entropy of the members.

    .. math:: I = H\Big(\frac{1}{M} \sum_m p_m\Big) - \frac{1}{M} \sum_m H(p_m)

    Args:
        logits: Unnormalised log-probabilities, with members on ``member_dim`` and classes on ``dim``.
        member_dim: The axis of the members, which the result drops.
        dim: The class axis, which the result drops.

    Returns:
        Information in ``[0, log(members)]``, float32 or wider; 0 where the members agree.

    References:
        Houlsby et al., "Bayesian Active Learning for Classification and Preference Learning", 2011.

    Examples:
        >>> mutual_information(torch.tensor([[100.0, 0.0], [0.0, 100.0]]))
        tensor(0.6931)
        >>> mutual_information(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        tensor(0.)
    """
    # Classes last and members first, so that neither axis moves under the other.
    z = torch.movedim(logits, (member_dim, dim), (0, -1))
    whole = softmax_entropy(mixture_of_probabilities(z))
    return (whole - softmax_entropy(z).mean(0)).clamp(min=0)
