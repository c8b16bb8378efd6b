"""Evidence against calibration that may be looked at as often as one likes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype, chunk_elements
from logitwatch.functional.row_statistics import calibration_rows
from logitwatch.functional.rows import flat_rows
from logitwatch.states.protocol import merge_fields, summed

__all__ = ["CalibrationEvidence", "alarm_threshold"]

# Sizes of the bets on each side: a gap g of variance v is best betted on with g / v. Below 1, no bet can lose all.
LARGEST, SMALLEST, SIZES = 0.9, 0.01, 8


def alarm_threshold(look: int = 1, *, alpha: float = 0.05) -> float:
    r"""The e-value at which the ``look``-th look raises the alarm, so that all looks together err by chance alpha.

    .. math:: k (k + 1) / \alpha, \qquad \sum_{k \ge 1} \frac{\alpha}{k (k + 1)} = \alpha

    For e-values that are looked at one after another on the *same* rows, as those of a validation set in each epoch:
    whatever their dependence, each exceeds its threshold with at most its share of alpha, and shares add up. A single
    e-process over fresh rows needs none of this: there ``1 / alpha`` holds at all looks at once.

    Args:
        look: Which look it is, from 1.
        alpha: Probability of any false alarm, in ``(0, 1)``.

    Returns:
        The threshold. In logarithms compare `CalibrationEvidence.log_e_value` with its logarithm.

    Raises:
        ValueError: If either argument is none of these.

    Examples:
        >>> alarm_threshold(1), alarm_threshold(2), alarm_threshold(10)
        (40.0, 120.0, 2200.0)
    """
    if look < 1:
        raise ValueError(f"look must be >= 1, got {look}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    return look * (look + 1) / alpha


@dataclass(frozen=True)
class CalibrationEvidence:
    r"""Wealth of sixteen gamblers who bet against the top-label confidences: an e-process, in one sum per bet.

    Of a calibrated model the gap ``confidence - correct`` is 0 in expectation, whatever went before. So a bet that
    multiplies its wealth by

    .. math:: 1 + \lambda (c_i - y_i), \qquad |\lambda| \le 0.9

    at each row is fair: its wealth, and the mean wealth of the bets, is a non-negative martingale that starts at 1. By
    Ville's inequality it ever reaches :math:`1 / \alpha` with probability at most :math:`\alpha`, however often it is
    looked at and whenever one stops: alarm at ``e_value() >= 1 / alpha``. Positive bets win where the model is
    overconfident, negative ones where it is underconfident.

    This is for *fresh* rows: each row once, of a model that has not been fitted to it. A validation set that is seen
    again in each epoch gives a new e-value each time, and these are no martingale together; take a new state per epoch
    and compare it with `alarm_threshold` of the epoch. Rows must be independent given their logits.

    Rows seen are ``count + nonfinite + ignored + bad_target``; a row is counted under the first of non-finite, ignored
    and bad target that holds.

    References:
        Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", 2024.
        Arnold, Henzi & Ziegel, "Sequentially valid tests for forecast calibration", 2023.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0]]).expand(400, 2)  # sure by 0.88
        >>> fair = CalibrationEvidence.of(logits, (torch.arange(400) % 8 == 0).long())  # 7 of 8 are right
        >>> rash = CalibrationEvidence.of(logits, (torch.arange(400) % 4 == 0).long())  # 3 of 4
        >>> round(fair.e_value().item(), 2), rash.e_value().item() > 1000
        (0.62, True)
        >>> CalibrationEvidence.empty().e_value().item()
        1.0
    """

    count: Tensor = summed()  # int64, rows betted on
    log_wealths: Tensor = summed()  # float64 [16], nats; eight bets on overconfidence, then eight on underconfidence
    nonfinite: Tensor = summed()  # int64, rows
    ignored: Tensor = summed()  # int64, finite rows
    bad_target: Tensor = summed()  # int64, finite rows whose target names no class

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> CalibrationEvidence:
        """See `State.empty`."""
        none = torch.zeros((), dtype=torch.int64, device=device)
        wealth = torch.zeros(2 * SIZES, dtype=accumulator_dtype(torch.device(device)), device=device)
        return cls(none, wealth, none, none, none)

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor, *, ignore_index: int = -100) -> CalibrationEvidence:
        """Bets on a batch of logits.

        Args:
            logits: ``[..., classes]``, two classes or more, any real type.
            targets: Class indices ``[...]``, or probabilities ``[..., classes]``, of which the largest is the label.
            ignore_index: Rows with this class index are counted as ignored and otherwise left out.

        Raises:
            ValueError: If there are fewer than two classes, or ``targets`` has neither shape.
        """
        flat = flat_rows(logits, targets, ignore_index=ignore_index)
        rows = calibration_rows(flat.logits, flat.targets)
        return cls.of_rows(rows.confidence, rows.correct, rows.nll, flat.mask)

    @classmethod
    def of_rows(
        cls, confidence: Tensor, correct: Tensor, nll: Tensor, mask: Tensor | None = None
    ) -> CalibrationEvidence:
        """Bets on rows whose quantities are known; each argument is ``[rows]``. See `CalibrationSketch.of_rows`."""
        finite, known = ~confidence.isnan(), ~nll.isnan()
        valid = torch.ones_like(finite) if mask is None else mask
        counted = finite & valid & known
        gap = (confidence.detach().to(accumulator_dtype(confidence.device)) - correct.to(torch.int64)).clamp(-1, 1)
        gap.masked_fill_(~counted, 0.0)
        bets, wealth = _bets(gap.device), cls.empty(device=gap.device).log_wealths
        step = chunk_elements(gap.device) // len(bets)
        for i in range(0, len(gap), step):
            wealth = wealth + torch.log1p(gap[i : i + step].unsqueeze(-1) * bets).sum(0)
        return cls(counted.sum(), wealth, (~finite).sum(), (finite & ~valid).sum(), (finite & valid & ~known).sum())

    def merge(self, other: CalibrationEvidence) -> CalibrationEvidence:
        """See `State.merge`."""
        return merge_fields(self, other)

    def log_e_value(self, side: Literal["both", "over", "under"] = "both") -> Tensor:
        """Logarithm of the mean wealth of the bets, nats; 0 before any row.

        Args:
            side: All bets, or only those on overconfidence, or on underconfidence; each is an e-process of its own.

        Raises:
            ValueError: If ``side`` is none of these.
        """
        match side:
            case "both":
                wealths = self.log_wealths
            case "over":
                wealths = self.log_wealths[:SIZES]
            case "under":
                wealths = self.log_wealths[SIZES:]
            case _:
                raise ValueError(f'side must be "both", "over" or "under", got {side!r}')
        return wealths.logsumexp(0) - math.log(len(wealths))

    def e_value(self) -> Tensor:
        """Mean wealth of the bets: evidence against calibration, 1 before any row; ``inf`` above 1e308."""
        return self.log_e_value().exp()


@cache
def _bets(device: torch.device) -> Tensor:
    """The bets, ``[16]``: positive ones first, each side from the largest to the smallest."""
    steps = torch.arange(SIZES, dtype=accumulator_dtype(device), device=device) / (SIZES - 1)
    sizes = LARGEST * (SMALLEST / LARGEST) ** steps
    return torch.cat((sizes, -sizes))
