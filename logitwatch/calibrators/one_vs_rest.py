"""From one class against the rest and back: the scores that binary maps take, and the logits made of what they give."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from logitwatch.calibrators.inputs import CalibrationRows

__all__ = ["ClassRows", "calibrated_logits", "class_log_odds", "class_rows", "log_or_unchanged"]

# An only class has log-odds of inf, which a slope of 0 would make NaN.
LARGEST = 1e30


def class_log_odds(z: Tensor) -> Tensor:
    r"""Log-odds of each class against all others, :math:`z_k - \log \sum_{j \ne k} e^{z_j}`, in nats.

    Good to rounding on both sides of 1/2, where ``log p - log(1 - p)`` would cancel.

    Args:
        z: ``[..., classes]``, float32 or wider.

    Returns:
        Shaped as ``z``, in ``[-1e30, 1e30]``, the ends for an absent class (``-inf``) and an only one; NaN throughout
        a row with NaN or ``+inf``, or without a present class.

    Examples:
        >>> class_log_odds(torch.tensor([[200.0, 0.0], [0.0, 0.0]]))
        tensor([[ 200., -200.],
                [   0.,    0.]])
    """
    top, index = z.max(-1, keepdim=True)
    c = z - top
    # The largest counts as 1 in each sum but its own, so the sums are taken without it: nothing cancels.
    below = c.scatter(-1, index, -torch.inf)
    e = below.exp()
    odds = c - torch.log1p((e.sum(-1, keepdim=True) - e).clamp(min=0))
    odds = odds.scatter(-1, index, 0 - below.logsumexp(-1, keepdim=True))
    odds = odds + (top - top)  # NaN where the row is not finite, else 0
    return odds.clamp(-1e30, 1e30)  # LARGEST, which TorchScript cannot read


def calibrated_logits(log_q: Tensor, scores: Tensor, z: Tensor) -> Tensor:
    """Log-probabilities from the log of each class's own calibrated probability: they are made to sum to 1.

    Args:
        log_q: ``[..., classes]``, ``<= 0``.
        scores: What they were made of, NaN in a row that is not finite.
        z: The logits as they came; an absent class stays absent.

    Returns:
        Shaped as ``z``; even over the present classes where every ``log_q`` is ``-inf``.

    Examples:
        >>> z = torch.tensor([[1.0, 0.0, float("-inf")]])
        >>> calibrated_logits(torch.tensor([[0.2, 0.2, 0.1]]).log(), z, z).exp()
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    absent = z == -torch.inf
    none = (log_q == -torch.inf).all(-1, keepdim=True)
    log_q = torch.where(none, torch.zeros_like(log_q), log_q)
    normalised = torch.where(absent, z, log_q).log_softmax(-1)
    # A lookup finds a number even for NaN.
    return torch.where(absent, z, torch.where(scores.isnan(), scores, normalised))


def log_or_unchanged(q: Tensor, scores: Tensor) -> Tensor:
    """Log of looked-up probabilities; where the table is NaN, which says nothing is known, that of the class itself.

    Examples:
        >>> log_or_unchanged(torch.tensor([1.0, float("nan")]), torch.tensor([0.0, 0.0])).exp()
        tensor([1.0000, 0.5000])
    """
    return torch.where(q.isnan(), F.logsigmoid(scores), q.log())


class ClassRows(NamedTuple):
    """What rows say about one class: its log-odds, whether it is the target, and weights; float64, ``[rows]`` each."""

    scores: Tensor
    yes: Tensor
    weights: Tensor


def class_rows(rows: CalibrationRows) -> Iterator[ClassRows]:
    """Class by class, the rows in which it is neither absent nor the only one present; there may be none.

    Examples:
        >>> rows = CalibrationRows(torch.tensor([[1.0, 0.0]]), torch.tensor([1]), torch.ones(1), 0, 0)
        >>> [(one.scores.item(), one.yes.item()) for one in class_rows(rows)]
        [(1.0, False), (-1.0, True)]
    """
    for k, column in enumerate(class_log_odds(rows.logits).unbind(1)):
        told = column.abs() < LARGEST
        yield ClassRows(column[told].to(rows.weights), rows.targets[told] == k, rows.weights[told])
