"""Rows whose classes are split over several ranks: what one shard knows, and how shards make the whole row."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import UNDERFLOW, accumulator_dtype, chunk_elements
from logitwatch.functional.row_statistics import RowStatistics, row_statistics

__all__ = ["ClassShard", "ShardPartials", "SplitRows", "combine_partials", "shard_partials"]


class ClassShard(NamedTuple):
    """Where the classes of a shard are among all classes.

    Attributes:
        group: The lowest global rank of those that hold the other classes of the same rows.
        offset: Index of the first class of this shard among all.
        size: How many classes this shard has; may be 0.
        num_classes: Number of classes of the whole row.
    """

    group: int
    offset: int
    size: int
    num_classes: int

    @classmethod
    def of(cls, ranks: Sequence[int], place: int, num_classes: int) -> "ClassShard":
        """The shard at a place among some ranks, which divide the classes as `torch.chunk` does.

        Examples:
            >>> [ClassShard.of([2, 3, 4], place, 4)[1:3] for place in range(3)]
            [(0, 2), (2, 2), (4, 0)]
        """
        chunk = -(-num_classes // len(ranks))
        offset = min(num_classes, place * chunk)
        return cls(min(ranks), offset, min(chunk, num_classes - offset), num_classes)


class SplitRows(NamedTuple):
    """One look at rows whose classes are split: one shard of all of them."""

    shard: ClassShard
    logits: Tensor  # [rows, classes of the shard]
    targets: Tensor | None  # [rows], indices among all classes
    valid: Tensor  # [rows] bool, rows that count
    high: Tensor  # [rows], largest logit of the shard; NaN or inf where it has such a one
    low: Tensor  # [rows], smallest present logit of the shard

    @property
    def num_rows(self) -> int:
        """How many rows there are, ignored ones included."""
        return len(self.valid)


class ShardPartials(NamedTuple):
    """All there is to know of one shard of each row, each ``[rows]`` in the accumulator type.

    A shard without a present class has what changes nothing when shards are combined: extremes that lose against any,
    and zeros; no second logit. Where a shard has NaN or ``+inf``, ``max_logit`` is that and the rest is meaningless.
    """

    max_logit: Tensor
    second_logit: Tensor  # of the shard, -inf where one class is present
    min_logit: Tensor  # over present classes
    mean_logit: Tensor  # over present classes
    squares: Tensor  # of deviations of the present classes from their mean
    classes: Tensor  # number of present classes
    log_sum: Tensor  # log of the sum of exp(z - max_logit)
    entropy: Tensor  # nats, of the softmax over the shard alone
    collision: Tensor  # of the softmax over the shard alone
    target_logit: Tensor  # NaN where the target is in another shard
    correct: Tensor  # 1 where the first largest logit of the shard is the target
    prediction: Tensor  # the first largest class of the shard, counted among all classes


def shard_partials(logits: Tensor, targets: Tensor | None = None, *, offset: int = 0) -> ShardPartials:
    """What one shard knows of each row. Nothing is communicated and nothing the size of ``logits`` is allocated.

    Args:
        logits: ``[rows, classes of the shard]``, any real type, possibly without a class.
        targets: Indices ``[rows]`` among all classes, or None.
        offset: Index of the first class of the shard among all classes.

    Returns:
        The partial quantities of each row, on the device of ``logits``.

    Examples:
        >>> part = shard_partials(torch.tensor([[2.0, 0.0]]), torch.tensor([3]), offset=2)
        >>> part.max_logit.item(), part.target_logit.item(), part.prediction.item()
        (2.0, 0.0, 2.0)
    """
    if logits.ndim == 2 and logits.shape[1] == 0:  # as one class that is absent and nobody's target
        logits, targets = torch.full((len(logits), 1), -torch.inf, device=logits.device), None
    step = max(1, chunk_elements(logits.device) // max(1, logits.shape[-1]))
    local = None if targets is None else targets.long() - offset
    parts = [
        _partials(logits[i : i + step], None if local is None else local[i : i + step], offset)
        for i in range(0, max(1, len(logits)), step)
    ]
    return parts[0] if len(parts) == 1 else ShardPartials(*map(torch.cat, zip(*parts, strict=True)))


def combine_partials(parts: ShardPartials, *, dtype: torch.dtype = torch.float32) -> RowStatistics:
    r"""The statistics of whole rows from those of all their shards: what `row_statistics` says of the whole.

    With :math:`m_i` the maximum and :math:`\ell_i` the log-sum of shard i, :math:`M = \max_i m_i`:

    .. math::
        L = \log \sum_i e^{m_i - M + \ell_i}, \qquad w_i = e^{m_i - M + \ell_i - L}, \qquad
        H = \sum_i w_i (H_i - \log w_i), \qquad \mathrm{nll} = L - (z_y - M)

    Deviations are merged by Chan's formula. All differences are taken in float64, so a large offset of the logits costs
    nothing; the result is rounded to the type it would have on one rank, so that it falls into the same cells.

    Args:
        parts: ``[shards, rows]`` each, in the order of classes.
        dtype: Type of the result.

    Returns:
        The quantities of each row; those that need a target are NaN where no shard has it.

    References:
        Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.

    Examples:
        >>> halves = [shard_partials(torch.tensor([[float(i)]]), torch.tensor([0]), offset=i) for i in range(2)]
        >>> rows = combine_partials(ShardPartials(*map(torch.stack, zip(*halves))))
        >>> rows.confidence, rows.nll
        (tensor([0.7311]), tensor([1.3133]))
    """
    top, winner = parts.max_logit.max(0)
    first = winner.unsqueeze(0)
    second = parts.max_logit.scatter(0, first, parts.second_logit.gather(0, first)).amax(0)
    count = parts.classes.sum(0)
    mean = (parts.classes * parts.mean_logit).sum(0) / count
    squares = (parts.squares + parts.classes * (parts.mean_logit - mean).square()).sum(0)
    shares = parts.max_logit - top + parts.log_sum
    log_sum = shares.logsumexp(0)
    # A shard without a present class has weight 0, times a logarithm that must stay finite.
    log_weight = (shares - log_sum).clamp(min=UNDERFLOW[torch.float64])
    weight = log_weight.exp()
    absent = parts.target_logit.isnan()
    target = parts.target_logit.masked_fill(absent, 0.0).sum(0).masked_fill(absent.all(0), torch.nan)
    nll = log_sum - (target - top)
    whole = RowStatistics(
        max_logit=top,
        min_logit=parts.min_logit.amin(0),
        mean_logit=mean,
        squares=squares,
        classes=count,
        log_partition=top + log_sum,
        entropy=(weight * (parts.entropy - log_weight)).sum(0),
        confidence=log_sum.neg().exp(),
        margin=top - second,
        collision=(weight.square() * parts.collision).sum(0),
        nll=nll,
        target_confidence=nll.neg().exp(),
        target_square=torch.where(target.isnan(), target, 1.0),
        correct=parts.correct.gather(0, first).squeeze(0) == 1,
        prediction=parts.prediction.gather(0, first).squeeze(0).long(),
    )
    return RowStatistics(*(values.to(dtype) if values.is_floating_point() else values for values in whole))


def _partials(z: Tensor, targets: Tensor | None, offset: int) -> ShardPartials:
    """Of a chunk of rows; targets are counted from the first class of the shard."""
    rows = row_statistics(z, targets)
    wide = accumulator_dtype(z.device)
    top = rows.max_logit.to(wide)
    present = z.masked_fill(z == -torch.inf, 0)
    found = torch.full_like(top, torch.nan)
    if targets is not None:
        known = (targets >= 0) & (targets < z.shape[1])
        chosen = z.gather(1, torch.where(known, targets, 0).unsqueeze(1)).squeeze(1)
        found = chosen.to(wide).masked_fill(~known, torch.nan)
    part = ShardPartials(
        max_logit=top,
        # An infinite margin is that over a class that is not there.
        second_logit=top - rows.margin.to(wide),
        min_logit=rows.min_logit.to(wide),
        mean_logit=present.sum(1, dtype=wide) / rows.classes,
        squares=rows.squares.to(wide),
        classes=rows.classes.to(wide),
        log_sum=rows.confidence.to(wide).log().neg(),
        entropy=rows.entropy.to(wide),
        collision=rows.collision.to(wide),
        target_logit=found,
        correct=rows.correct.to(wide),
        prediction=(rows.prediction + offset).to(wide),
    )
    nobody = rows.classes == 0
    zeros = ("mean_logit", "squares", "log_sum", "entropy", "collision")
    return part._replace(**{name: getattr(part, name).masked_fill(nobody, 0.0) for name in zeros})
