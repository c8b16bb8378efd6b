"""How certain a row of logits is: log-partition, entropy, confidence. Invariant to a shift, except `log_partition`."""

import torch
from torch import Tensor

from logitwatch.functional.numerics import centred_exp, upcast

__all__ = ["confidence", "effective_classes", "energy", "log_partition", "softmax_entropy"]


def log_partition(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Log of the softmax normaliser, in nats. Shifts with the logits.

    .. math:: \log Z = \log \sum_k e^{z_k}

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        A float32 (float64 for float64 logits) tensor; ``-inf`` for a row whose classes are all absent.

    Examples:
        >>> log_partition(torch.tensor([[0.0, 0.0], [1000.0, float("-inf")]]))
        tensor([6.9315e-01, 1.0000e+03])
    """
    return torch.logsumexp(upcast(logits), dim)


def softmax_entropy(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Shannon entropy of ``softmax(logits)``, in nats.

    .. math:: H(p) = -\sum_k p_k \log p_k = \log s - \frac{1}{s} \sum_k e_k c_k

    with :math:`c` the logits less their maximum, :math:`e = \exp c` and :math:`s = \sum e`: nothing leaves log space,
    so logits of any finite magnitude are exact to rounding. An absent class (``-inf``) contributes nothing.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        Entropy in ``[0, log(num_classes)]``, float32 or wider; NaN for a row without a finite class.

    References:
        Shannon, "A Mathematical Theory of Communication", 1948.

    Examples:
        >>> softmax_entropy(torch.tensor([[0.0, 0.0], [1e30, 0.0]]))
        tensor([0.6931, 0.0000])
        >>> softmax_entropy(torch.tensor([2.0, 2.0, float("-inf")]))
        tensor(0.6931)
    """
    centred, e, s = centred_exp(logits, dim=dim)
    return s.log() - (e * centred).sum(dim) / s


def confidence(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Probability of the most likely class, :math:`\max_k p_k = 1 / s`. A fraction.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        Confidence in ``[1 / num_classes, 1]``, float32 or wider.

    References:
        Hendrycks & Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", 2017.

    Examples:
        >>> confidence(torch.tensor([[0.0, 0.0], [5.0, float("-inf")]]))
        tensor([0.5000, 1.0000])
    """
    return centred_exp(logits, dim=dim)[2].reciprocal()


def effective_classes(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Perplexity of the prediction, :math:`e^{H(p)}`: how many equally likely classes it is undecided between.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        A number in ``[1, num_classes]``, float32 or wider.

    Examples:
        >>> effective_classes(torch.tensor([[0.0, 0.0, float("-inf")], [90.0, 0.0, 0.0]]))
        tensor([2., 1.])
    """
    return softmax_entropy(logits, dim=dim).exp()


def energy(logits: Tensor, *, temperature: float = 1.0, dim: int = -1) -> Tensor:
    r"""In-distribution score :math:`T \log \sum_k e^{z_k / T}`: higher is more in-distribution. Shifts with the logits.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        temperature: ``T > 0``; 1 gives the log-partition.
        dim: The class axis, which the result drops.

    Returns:
        The negative of the free energy, float32 or wider.

    Raises:
        ValueError: If ``temperature`` is not positive.

    References:
        Liu et al., "Energy-based Out-of-distribution Detection", 2020.

    Examples:
        >>> energy(torch.tensor([1.0, 1.0]), temperature=2.0)
        tensor(2.3863)
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    return temperature * log_partition(upcast(logits) / temperature, dim=dim)
