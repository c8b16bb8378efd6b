"""The softmax of a block of logits in place, small enough for the cache, and all there is to know of its rows."""

from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import UNDERFLOW
from logitwatch.functional.row_statistics import RowStatistics, top_two

__all__ = ["SoftmaxRows", "exponentials"]

# exp2 of a scaled argument takes a third of the time of exp.
LOG2_E = 1.4426950408889634


class SoftmaxRows(NamedTuple):
    """What a softmax needs to know of each row, ``[rows]``."""

    top: Tensor  # largest logit
    total: Tensor  # sum of exp(z - top)
    nll: Tensor  # of the target, nats; of no meaning where there is none


def exponentials(
    z: Tensor,
    targets: Tensor,
    scratch: Tensor,
    *,
    absent: Tensor | None = None,
    counted: Tensor | None = None,
    statistics: bool = False,
) -> tuple[SoftmaxRows, RowStatistics | None]:
    r"""Replace logits by :math:`e = \exp(z - \max z)`.

    Args:
        z: ``[rows, classes]``, float32 or float64, contiguous; holds :math:`e` afterwards.
        targets: Class indices ``[rows]``, each of them a class.
        scratch: Of the shape and type of ``z``.
        absent: Classes whose logit is ``-inf``, ``[classes]`` bool, or None where there is none.
        counted: Rows that have a target, ``[rows]`` bool; all where None. Only the statistics ask.
        statistics: Whether the statistics are wanted too.

    Returns:
        The softmax, and the statistics or None.

    Examples:
        >>> z = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
        >>> rows, more = exponentials(z, torch.tensor([1, 0]), torch.empty(2, 2), statistics=True)
        >>> z.tolist(), rows.nll, more.entropy, more.max_logit
        ([[1.0, 1.0], [1.0, 1.0]], tensor([0.6931, 0.6931]), tensor([0.6931, 0.6931]), tensor([0., 5.]))
    """
    found = z.gather(1, targets.unsqueeze(1)).squeeze(1)
    if not statistics:
        top = z.amax(1)
        z.sub_(top.unsqueeze(1)).mul_(LOG2_E).exp2_()
        total = z.sum(1)
        return SoftmaxRows(top, total, total.log() - (found - top)), None
    top, second, prediction = top_two(z)
    low = z.amin(1) if absent is None else z.masked_fill(absent, torch.inf).amin(1)
    c = torch.sub(z, top.unsqueeze(1), out=scratch)
    present = c if absent is None else c.masked_fill(absent, 0.0)
    classes = torch.full_like(top, z.shape[1]) if absent is None else (~absent).sum().to(top).expand_as(top)
    deviation, squares = present.sum(1), torch.linalg.vecdot(present, present)
    c.clamp_(min=UNDERFLOW[z.dtype])  # an absent class would add 0 * inf to the entropy
    torch.mul(c, LOG2_E, out=z).exp2_()
    total = z.sum(1)
    log_s = total.log()
    nll = log_s - (found - top)
    seen = torch.ones_like(targets, dtype=torch.bool) if counted is None else counted
    known = nll.masked_fill(~seen, torch.nan)
    mean = deviation / classes
    return SoftmaxRows(top, total, nll), RowStatistics(
        max_logit=top,
        min_logit=low,
        mean_logit=top + mean,
        squares=(squares - deviation * mean).clamp_(min=0),
        classes=classes,
        log_partition=top + log_s,
        entropy=log_s - torch.linalg.vecdot(z, c) / total,
        confidence=total.reciprocal(),
        margin=top - second,
        collision=torch.linalg.vecdot(z, z) / total.square(),
        nll=known,
        target_confidence=(-known).exp(),
        target_square=torch.ones_like(known).masked_fill(~seen, torch.nan),
        correct=seen & (prediction == targets),
        prediction=prediction,
    )
