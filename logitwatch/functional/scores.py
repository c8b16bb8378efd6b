"""Scores of a row of logits: margin, norm, and the scores that need a target."""

import torch
from torch import Tensor

from logitwatch.functional.numerics import centred_exp, upcast

__all__ = [
    "brier_score",
    "class_log_odds",
    "log_odds",
    "logit_margin",
    "logit_norm",
    "nll",
    "scale_by_temperature",
    "target_log_odds",
    "target_rank",
]


def logit_margin(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Gap between the two largest logits, :math:`z_{(1)} - z_{(2)}`, in nats: the log-odds of first against second.

    Args:
        logits: Unnormalised log-probabilities, any shape with at least one class on ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        Margin ``>= 0``, float32 or wider; 0 on a tie, ``inf`` where only one class is present.

    Examples:
        >>> logit_margin(torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, float("-inf")]]))
        tensor([2., 0.])
        >>> logit_margin(torch.tensor([[4.0]]))
        tensor([inf])
    """
    z = upcast(logits)
    if z.shape[dim] < 2:
        return torch.where(z.isnan(), z, torch.inf).sum(dim)
    top = z.topk(2, dim).values
    return top.select(dim, 0) - top.select(dim, 1)


def logit_norm(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Euclidean norm :math:`\lVert z \rVert_2` of the present classes, in units of the logits. Shifts with the logits.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        Norm ``>= 0``, float32 or wider.

    References:
        Wei et al., "Mitigating Neural Network Overconfidence with Logit Normalization", 2022: the norm of the logits
        keeps growing after the training error is zero, and confidence with it.

    Examples:
        >>> logit_norm(torch.tensor([[3.0, 4.0], [3.0, float("-inf")]]))
        tensor([5., 3.])
    """
    z = upcast(logits)
    norm: Tensor = torch.linalg.vector_norm(z.masked_fill(z == -torch.inf, 0.0), dim=dim)
    return norm


def nll(logits: Tensor, targets: Tensor, *, dim: int = -1) -> Tensor:
    r"""Negative log-likelihood of the target, in nats.

    .. math:: -\log p_y = \log s - c_y \qquad\text{or, for soft targets,}\qquad -\sum_k q_k \log p_k

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        targets: Class indices, shaped as ``logits`` without ``dim``; or probabilities, shaped as ``logits``.
        dim: The class axis, which the result drops.

    Returns:
        NLL ``>= 0``, float32 or wider; ``inf`` where the target is an absent class.

    Raises:
        ValueError: If ``targets`` has neither of the two shapes.

    Examples:
        >>> nll(torch.tensor([[0.0, 0.0], [9.0, float("-inf")]]), torch.tensor([1, 0]))
        tensor([0.6931, 0.0000])
        >>> nll(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.5, 0.5]]))
        tensor([0.6931])
    """
    log_p = torch.log_softmax(upcast(logits), dim)
    if _are_indices(logits, targets, dim):
        return 0.0 - log_p.gather(dim, targets.unsqueeze(dim)).squeeze(dim)
    return 0.0 - torch.where(targets == 0, 0.0, targets * log_p).sum(dim)


def brier_score(logits: Tensor, targets: Tensor, *, dim: int = -1) -> Tensor:
    r"""Squared distance of the predicted probabilities to the target, :math:`\sum_k (p_k - y_k)^2`.

    For two classes this is twice the one-probability score scikit-learn reports.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        targets: Class indices, shaped as ``logits`` without ``dim``; or probabilities, shaped as ``logits``.
        dim: The class axis, which the result drops.

    Returns:
        Score in ``[0, 2]``, float32 or wider.

    References:
        Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.

    Examples:
        >>> brier_score(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor([0.5000])
    """
    _, e, s = centred_exp(logits, dim=dim)
    p = e / s.unsqueeze(dim)
    if _are_indices(logits, targets, dim):
        p_target = p.gather(dim, targets.unsqueeze(dim)).squeeze(dim)
        return p.square().sum(dim) - 2 * p_target + 1
    return (p - targets).square().sum(dim)


def log_odds(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Log-odds of the predicted class against all others, in nats: confidence on a scale that never saturates.

    .. math:: \log \frac{p}{1 - p} = \max_k z_k - \log \sum_{j \ne k} e^{z_j}

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        Log-odds ``>= -log(num_classes - 1)``, float32 or wider; ``inf`` where only one class is present.

    Examples:
        >>> log_odds(torch.tensor([[0.0, 0.0], [200.0, 0.0]]))
        tensor([  0., 200.])
    """
    z = upcast(logits)
    top, index = z.max(dim, keepdim=True)
    others = torch.logsumexp(z.scatter(dim, index, -torch.inf), dim)
    return top.squeeze(dim) - others


def target_log_odds(logits: Tensor, targets: Tensor, *, dim: int = -1) -> Tensor:
    r"""Log-odds of the target against all other classes, in nats. Differentiable, and exact near p = 0 and p = 1.

    .. math:: \log \frac{p_y}{1 - p_y} = z_y - \log \sum_{j \ne y} e^{z_j}

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        targets: Class indices, shaped as ``logits`` without ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        Log-odds, float32 or wider; ``inf`` where only the target is present, ``-inf`` where it is absent.

    Examples:
        >>> target_log_odds(torch.tensor([[50.0, 0.0, 0.0], [0.0, 0.0, float("-inf")]]), torch.tensor([0, 2]))
        tensor([49.3069,    -inf])
    """
    z, index = upcast(logits), targets.unsqueeze(dim)
    others = z.scatter(dim, index, -torch.inf)
    top = others.detach().amax(dim, keepdim=True)
    # Where nothing else is present the sum is empty, and its logarithm would send NaN backward.
    alone = top == -torch.inf
    top = top.masked_fill(alone, 0.0)
    s = (others - top).exp().sum(dim, keepdim=True).masked_fill(alone, 1.0)
    odds = (z.gather(dim, index) - top - s.log()).masked_fill(alone, torch.inf)
    return odds.squeeze(dim)


def class_log_odds(logits: Tensor, *, dim: int = -1) -> Tensor:
    r"""Log-odds of each class against all others, in nats: `target_log_odds` of every class at once.

    .. math:: \log \frac{p_k}{1 - p_k}

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        dim: The class axis.

    Returns:
        Log-odds shaped as ``logits``, float32 or wider; ``-inf`` for an absent class, ``inf`` for one that is alone.

    Examples:
        >>> class_log_odds(torch.tensor([50.0, 0.0, float("-inf")]))
        tensor([ 50., -50., -inf])
    """
    z = upcast(logits)
    index = z.detach().argmax(dim, keepdim=True)
    log_p = torch.log_softmax(z, dim)
    # No other class has p > 1/2, so only for the largest would 1 - p cancel.
    p = log_p.exp().scatter(dim, index, 0.0)
    odds = log_p - torch.log1p(-p)
    return odds.scatter(dim, index, target_log_odds(z, index.squeeze(dim), dim=dim).unsqueeze(dim))


def target_rank(logits: Tensor, targets: Tensor, *, dim: int = -1) -> Tensor:
    """How many classes score strictly higher than the target: 0 where the target is the prediction.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        targets: Class indices, shaped as ``logits`` without ``dim``.
        dim: The class axis, which the result drops.

    Returns:
        int64 ranks in ``[0, num_classes)``.

    Examples:
        >>> target_rank(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([1]))
        tensor([2])
    """
    return (logits > logits.gather(dim, targets.unsqueeze(dim))).sum(dim)


def scale_by_temperature(logits: Tensor, temperature: float | Tensor, *, dim: int = -1) -> Tensor:
    """Logits divided by a temperature: ``T > 1`` softens the prediction, ``T < 1`` sharpens it, no argmax changes.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        temperature: One positive number, or a tensor shaped as ``logits`` without ``dim``.
        dim: The class axis.

    Returns:
        A tensor shaped as ``logits``, float32 or wider.

    Raises:
        ValueError: If a plain number is not positive.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", 2017.

    Examples:
        >>> scale_by_temperature(torch.tensor([2.0, 4.0]), 2.0)
        tensor([1., 2.])
    """
    if isinstance(temperature, Tensor):
        return upcast(logits) / (temperature.unsqueeze(dim) if temperature.ndim else temperature)
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    return upcast(logits) / temperature


def _are_indices(logits: Tensor, targets: Tensor, dim: int) -> bool:
    """Whether targets are class indices (True) or probabilities (False)."""
    leading = list(logits.shape)
    leading.pop(dim)
    if list(targets.shape) == leading and not targets.is_floating_point():
        return True
    if targets.shape == logits.shape:
        return False
    raise ValueError(
        f"targets must be integer of shape {tuple(leading)} or probabilities of shape {tuple(logits.shape)}, "
        f"got {targets.dtype} of shape {tuple(targets.shape)}"
    )
