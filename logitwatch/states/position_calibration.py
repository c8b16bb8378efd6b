"""Calibration of sequences by where in the sequence a token stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.functional.row_statistics import calibration_rows
from logitwatch.functional.rows import flat_rows
from logitwatch.states.protocol import merge_fields, summed

__all__ = ["PositionCalibration"]

# Position 0, then 1, 2 to 3, 4 to 7, and so on; the last takes all from 2 ** 18.
BUCKETS, BINS = 20, 15


@dataclass(frozen=True)
class PositionCalibration:
    r"""Counts, hits, confidence and NLL in 20 buckets of position and 15 bins of confidence: 7 KB.

    Bucket 0 is position 0, bucket ``b`` positions :math:`2^{b-1}` to :math:`2^b - 1`, and the last all from
    :math:`2^{18}`. Bins of top-label confidence are ``[lo, hi)``, the last closed, with edges ``i / 15``.

    Rows seen are the sum of ``count``, ``nonfinite``, ``ignored`` and ``bad_target``; a row is counted under the first
    of non-finite, ignored and bad target that holds. Read-outs are ``[20]``, float64, and NaN for a bucket without
    rows.

    Examples:
        >>> logits = torch.tensor([2.0, 0.0]).expand(1, 5, 2)  # one sequence of five tokens, each sure by 0.88
        >>> seen = PositionCalibration.of(logits, torch.tensor([[0, -100, 0, 1, 1]]))
        >>> seen.count[:4].tolist(), seen.ignored.item()
        ([1, 0, 2, 1], 1)
        >>> seen.gap()[:4].mul(1000).round().tolist()  # overconfident from position 2 on
        [-119.0, nan, 381.0, 881.0]
    """

    counts: Tensor = summed()  # int64 [20, 15]
    hits: Tensor = summed()  # int64 [20, 15], correct rows
    confidences: Tensor = summed()  # float64 [20, 15]
    nll_totals: Tensor = summed()  # float64 [20], nats
    nonfinite: Tensor = summed()  # int64, rows
    ignored: Tensor = summed()  # int64, finite rows
    bad_target: Tensor = summed()  # int64, finite rows whose target names no class

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> PositionCalibration:
        """See `State.empty`."""
        cells = torch.zeros(BUCKETS, BINS, dtype=torch.int64, device=device)
        sums = cells.to(accumulator_dtype(cells.device))
        return cls(cells, cells, sums, sums.sum(1), *(cells.sum(),) * 3)

    @classmethod
    def of(
        cls, logits: Tensor, targets: Tensor, *, ignore_index: int = -100, first_position: int = 0
    ) -> PositionCalibration:
        """Tables of a batch of sequences.

        Args:
            logits: ``[..., seq, classes]``, two classes or more, any real type.
            targets: Class indices ``[..., seq]``, or probabilities ``[..., seq, classes]``, of which the largest is the
                label.
            ignore_index: Rows with this class index are counted as ignored and otherwise left out.
            first_position: Position of the first token, where the sequences are the rest of longer ones.

        Raises:
            ValueError: If ``logits`` has no axis of positions or fewer than two classes, or ``targets`` has neither
                shape.
        """
        if logits.ndim < 2:
            raise ValueError(f"logits must be [..., seq, classes], got {tuple(logits.shape)}")
        flat = flat_rows(logits, targets, ignore_index=ignore_index)
        last = first_position + logits.shape[-2]
        position = torch.arange(first_position, last, device=logits.device).expand(logits.shape[:-1]).reshape(-1)
        rows = calibration_rows(flat.logits, flat.targets)
        return cls.of_rows(position, rows.confidence, rows.correct, rows.nll, flat.mask)

    @classmethod
    def of_rows(
        cls, position: Tensor, confidence: Tensor, correct: Tensor, nll: Tensor, mask: Tensor | None = None
    ) -> PositionCalibration:
        """Tables of rows whose quantities are known; each argument is ``[rows]``.

        Args:
            position: Where in its sequence each row stands, an integer from 0.
            confidence: See `CalibrationSketch.of_rows`, as for the rest.
            correct: Bool.
            nll: Nats.
            mask: True for rows to count; the others are counted as ignored.
        """
        wide = accumulator_dtype(confidence.device)
        finite, known = ~confidence.isnan(), ~nll.isnan()
        valid = torch.ones_like(finite) if mask is None else mask
        counted = finite & valid & known
        c = confidence.detach().to(wide).contiguous()
        edges = torch.arange(1, BINS, dtype=wide, device=c.device) / BINS
        starts = 2 ** torch.arange(BUCKETS - 1, device=c.device)
        bucket = torch.bucketize(position.contiguous(), starts, right=True)
        cell = bucket * BINS + torch.bucketize(c, edges, right=True)
        # Rows that do not count share a place behind the last.
        cell = cell.masked_fill(~counted, BUCKETS * BINS)
        bucket = bucket.masked_fill(~counted, BUCKETS)

        def table(index: Tensor, values: Tensor, size: int) -> Tensor:
            return values.new_zeros(size + 1).scatter_add_(0, index, values)[:size]

        return cls(
            counts=table(cell, torch.ones_like(cell), BUCKETS * BINS).view(BUCKETS, BINS),
            hits=table(cell, correct.to(torch.int64), BUCKETS * BINS).view(BUCKETS, BINS),
            confidences=table(cell, c, BUCKETS * BINS).view(BUCKETS, BINS),
            nll_totals=table(bucket, nll.detach().to(wide), BUCKETS),
            nonfinite=(~finite).sum(),
            ignored=(finite & ~valid).sum(),
            bad_target=(finite & valid & ~known).sum(),
        )

    def merge(self, other: PositionCalibration) -> PositionCalibration:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def count(self) -> Tensor:
        """Number of rows in each bucket, int64."""
        return self.counts.sum(1)

    @staticmethod
    def first_positions() -> list[int]:
        """The first position of each bucket: 0, 1, 2, 4, 8, and so on."""
        return [0, *(2**power for power in range(BUCKETS - 1))]

    def ece(self) -> Tensor:
        """Expected calibration error of each bucket in 15 bins, a fraction. See `CalibrationSketch.ece`."""
        return (self.confidences - self.hits).abs().sum(1) / self.count

    def gap(self) -> Tensor:
        """Mean confidence less accuracy of each bucket: positive where overconfident."""
        return (self.confidences - self.hits).sum(1) / self.count

    def nll(self) -> Tensor:
        """Mean negative log-likelihood of each bucket, nats; its exponential is the perplexity."""
        return self.nll_totals / self.count

    def accuracy(self) -> Tensor:
        """Fraction of correct rows of each bucket."""
        return self.hits.sum(1).to(self.nll_totals.dtype) / self.count
