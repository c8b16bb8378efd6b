"""Rows of yes-or-no logits by the probability of yes, instead of by the likelier answer."""

from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import upcast
from logitwatch.functional.row_statistics import binary_row_statistics

__all__ = ["PositiveRows", "positive_rows"]


class PositiveRows(NamedTuple):
    """Each ``[rows]``, in the order in which ``CalibrationSketch.of_rows`` takes them."""

    confidence: Tensor  # probability of yes; NaN for a non-finite logit
    correct: Tensor  # bool, whether the answer is yes
    nll: Tensor  # nats; NaN where the target is outside [0, 1]
    brier: Tensor  # summed over yes and no, so twice that of scikit-learn
    mask: Tensor  # bool, False where the target is to be ignored


def positive_rows(logits: Tensor, targets: Tensor, *, ignore_index: int = -100) -> PositiveRows:
    r"""Binary or multi-label logits as rows to be calibrated by the probability of yes.

    A sketch of these rows bins :math:`p = \sigma(z)` over all of ``[0, 1]`` and compares it with how often the answer
    is yes: what torchmetrics' ``BinaryCalibrationError`` measures. Its ``accuracy`` is then the share of yes, and its
    ``mean_confidence`` the mean probability of yes. Of a multi-label batch each label of each example is a row.

    Args:
        logits: One logit per question, ``[...]``, any real type.
        targets: 0 or 1 for each, or a probability, of which more than 1/2 is yes; same shape as ``logits``.
        ignore_index: Rows with this target are to be ignored.

    Returns:
        The rows, float32 or wider.

    Raises:
        ValueError: If the shapes differ.

    Examples:
        >>> rows = positive_rows(torch.tensor([2.0, -2.0]), torch.tensor([1, 1]))
        >>> rows.confidence, rows.correct.tolist()
        (tensor([0.8808, 0.1192]), [True, True])
    """
    if logits.shape != targets.shape:
        raise ValueError(
            f"targets must have the shape of logits, {tuple(logits.shape)}, got {tuple(targets.shape)}; for logits "
            "[..., classes] of exclusive classes use the top label"
        )
    z, y = logits.reshape(-1), targets.reshape(-1)
    rows = binary_row_statistics(z, y)
    possible = (y >= 0) & (y <= 1)
    return PositiveRows(
        confidence=torch.where(rows.confidence.isnan(), torch.nan, upcast(z).sigmoid()),
        correct=y > 0.5,
        nll=torch.where(possible, rows.nll, torch.nan),
        brier=torch.where(possible, rows.brier, torch.nan),
        mask=y != ignore_index,
    )
