"""One pass over hidden states and a head: the softmax chunk by chunk, and the gradient while the logits are there."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import chunk_elements, full_precision
from logitwatch.functional.row_statistics import RowStatistics, row_statistics
from logitwatch.losses.logit_maps import LogitMap
from logitwatch.losses.softmax_blocks import SoftmaxRows, exponentials

__all__ = ["HeadGradients", "LinearHead", "PassRows", "RowPull", "chunk_rows", "linear_pass"]

# Rows of a chunk: below 64 the products lose, above 256 nothing is won. Between, what has room in 40 MiB of float32.
FEWEST_ROWS, MOST_ROWS, CHUNK_ELEMENTS = 64, 256, 10 << 20
# Classes whose gradient is added up in float32 at a time, from a product in half precision that is still in the cache.
HALF_CLASSES = 2048


class LinearHead(NamedTuple):
    """What makes the logits, and what they are held against."""

    hidden: Tensor  # [rows, features]
    weight: Tensor  # [classes, features], of the same type
    bias: Tensor | None  # [classes], float32 or wider
    absent: Tensor | None  # [classes] bool, those with a bias of -inf; None where there is none
    targets: Tensor  # [rows], each of them a class
    counted: Tensor  # [rows] bool, those that have a target
    spread: Tensor | None  # [classes], what label smoothing spreads a mass of 1 by, times the class weights
    map: LogitMap | None


class RowPull(NamedTuple):
    r"""What the terms of each row are multiplied by, ``[rows]`` each, float32 or wider; None for a term that is not.

    .. math:: l = t\, (-\log p_y) + u \sum_k s_k (-\log p_k) + v\, (\log Z)^2
    """

    target: Tensor
    uniform: Tensor | None = None
    partition: Tensor | None = None

    def of(self, rows: slice) -> "RowPull":
        """That of some rows."""
        return self._each(lambda values: values[rows])

    def times(self, scale: Tensor) -> "RowPull":
        """That of the loss times a number, or each row times its own."""
        return self._each(lambda values: values * scale)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "RowPull":
        target, uniform, partition = self
        return RowPull(
            change(target),
            None if uniform is None else change(uniform),
            None if partition is None else change(partition),
        )


class HeadGradients(NamedTuple):
    """Gradients in float32 or wider, None where none was asked for."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def zeros(cls, head: LinearHead, needs: tuple[bool, bool, bool]) -> "HeadGradients":
        """Those of a loss that nothing pulls at."""
        hidden, weight, _, *_ = head
        wide = torch.promote_types(hidden.dtype, torch.float32)
        shapes = (hidden.shape, weight.shape, (len(weight),))
        made = (hidden.new_zeros(s, dtype=wide) if n else None for s, n in zip(shapes, needs, strict=True))
        return cls(*made)


class PassRows(NamedTuple):
    """What the pass found of each row, ``[rows]``."""

    log_partition: Tensor
    nll: Tensor
    uniform: Tensor  # sum_k s_k (-log p_k), 0 without smoothing
    saturated: Tensor | None = None  # logits that a cap has saturated; where there is a cap and statistics are wanted


def linear_pass(
    head: LinearHead, pull: RowPull | None = None, needs: tuple[bool, bool, bool] = (True, True, True), *, lend: bool
) -> tuple[PassRows, HeadGradients, RowStatistics | None]:
    """Rows, gradients and statistics of a linear cross-entropy; nothing as large as all the logits is allocated.

    Args:
        head: What makes the logits.
        pull: How the rows add up to the loss; None for no gradient.
        needs: Whether the gradients of hidden states, weight and bias are wanted.
        lend: Whether the statistics are wanted.

    Examples:
        >>> one = torch.ones(1)
        >>> head = LinearHead(one.view(1, 1), torch.zeros(2, 1), None, None, torch.tensor([1]), one.bool(), None, None)
        >>> rows, gradients, _ = linear_pass(head, RowPull(one), lend=False)
        >>> rows.nll, gradients.weight.tolist()
        (tensor([0.6931]), [[0.5], [-0.5]])
    """
    with full_precision(head.hidden.device):
        work = _Pass(head, pull, needs, lend=lend)
        for first in range(0, max(1, len(head.hidden)), work.size):
            work.chunk(slice(first, first + work.size))
        return work.whole()


class _Pass:
    """What goes on from chunk to chunk: memory that is used again, sums, and what was found of the rows so far."""

    def __init__(self, head: LinearHead, pull: RowPull | None, needs: tuple[bool, bool, bool], *, lend: bool) -> None:
        self.head, self.pull, self.lend = head, pull, lend
        hidden, weight = head.hidden, head.weight
        classes, features = weight.shape
        self.wide = torch.promote_types(hidden.dtype, torch.float32)
        self.gradients = HeadGradients.zeros(head, needs if pull is not None else (False, False, False))
        self.size = chunk_rows(len(hidden), classes, hidden.device, half=hidden.dtype != self.wide)
        self.step = max(1, chunk_elements(hidden.device) // classes)
        self.logits = hidden.new_empty(min(self.size, len(hidden)), classes)
        self.scratch = hidden.new_empty(min(self.step, len(hidden)), classes, dtype=self.wide)
        in_place = hidden.dtype == self.wide
        self.lifted = self.scratch if in_place else torch.empty_like(self.scratch)
        self.product = self.logits if in_place else hidden.new_empty(min(HALF_CLASSES, classes), features)
        # The sum of s_k: 1 without class weights.
        self.share = 0.0 if head.spread is None else head.spread.sum()
        self.found: list[tuple[Tensor, ...]] = []
        self.saturated: list[Tensor] = []
        self.lent: list[RowStatistics] = []

    def chunk(self, rows: slice) -> None:
        """Logits of some rows, their softmax, and the two products that make the gradients."""
        hidden = self.head.hidden[rows]
        logits = torch.mm(hidden, self.head.weight.T, out=self.logits[: len(hidden)])
        factors = []
        for first in range(0, max(1, len(logits)), self.step):
            block = logits[first : first + self.step]
            z = block if block.dtype == self.wide else self.lifted[: len(block)].copy_(block)
            some = slice(rows.start + first, rows.start + first + len(block))
            factors.append(self._block(z, some))
            if z is not block and self.pull is not None:
                block.copy_(z)
        if self.pull is not None:
            self._products(logits, rows, torch.cat(factors))

    def _block(self, z: Tensor, rows: slice) -> Tensor:
        """A few rows in the cache; leaves in ``z`` what is to be multiplied with the head, and gives its factor."""
        head, kept = self.head, None
        targets, counted = head.targets[rows], head.counted[rows]
        if head.bias is not None:
            z.add_(head.bias)
        lend = self.lend
        if head.map is not None:
            if lend and not head.map.predicts:
                self.lent.append(row_statistics(z, targets.masked_fill(~counted, -1)))
                lend = False
            kept = head.map.apply(z)
            if self.lend and (saturated := head.map.saturated(kept, head.absent)) is not None:
                self.saturated.append(saturated)
        uniform = torch.zeros_like(z[:, 0])
        if head.spread is not None and kept is not None:
            uniform = torch.mv(z if head.absent is None else z.masked_fill(head.absent, 0.0), head.spread)
        softmax, statistics = exponentials(
            z, targets, self.scratch[: len(z)], absent=head.absent, counted=counted, statistics=lend
        )
        if statistics is not None:
            self.lent.append(statistics)
        log_partition = softmax.top + softmax.total.log()
        factor, residual = self._pulled(z, rows, softmax, log_partition, kept)
        self.found.append((log_partition, softmax.nll, uniform, residual))
        return factor

    def _pulled(
        self, z: Tensor, rows: slice, softmax: SoftmaxRows, log_partition: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Turn exponentials into a gradient of the logits; gives its factor, and what of the target is not in it."""
        if self.pull is None:
            return log_partition, log_partition
        head, pull = self.head, self.pull.of(rows)
        force = pull.target
        if pull.uniform is not None:
            force = force + self.share * pull.uniform
        if pull.partition is not None:
            force = force + 2 * pull.partition * log_partition
        # p_y - 1 from the NLL: the difference itself would cancel. An impossible target has no probability to pull.
        possible = softmax.nll.isfinite()
        missing = torch.where(possible, torch.expm1(-softmax.nll), 0.0)
        residual = force.masked_fill(~possible, 0.0) - pull.target
        counted = head.counted[rows]
        factor = (force / softmax.total).masked_fill(~counted, 0.0)  # whose logits may be NaN
        place = head.targets[rows].unsqueeze(1)
        if head.map is None or kept is None:
            z.scatter_(1, place, (softmax.total * missing).unsqueeze(1))
            return factor, residual
        z.mul_(factor.unsqueeze(1)).scatter_(1, place, (force * missing + residual).unsqueeze(1))
        if head.spread is not None and pull.uniform is not None:
            z.addr_(pull.uniform, head.spread, alpha=-1)
        head.map.pull(z, kept)
        return counted.to(factor.dtype), residual

    def _products(self, e: Tensor, rows: slice, factor: Tensor) -> None:
        """Add a chunk to the gradients. A hidden state of factor 0 gets exactly 0."""
        scale = factor.unsqueeze(1)
        hidden, weight, bias = self.gradients
        if hidden is not None:
            torch.mul(torch.mm(e, self.head.weight), scale, out=hidden[rows]).masked_fill_(scale == 0, 0.0)
        if bias is not None:
            bias.add_(torch.mv(e.T, factor.to(e.dtype)))
        if weight is None:
            return
        scaled = (self.head.hidden[rows] * scale).to(e.dtype)
        if e.dtype == self.wide:
            weight.addmm_(e.T, scaled)
            return
        for first in range(0, len(weight), HALF_CLASSES):
            some, total = e[:, first : first + HALF_CLASSES], weight[first : first + HALF_CLASSES]
            total.add_(torch.mm(some.T, scaled, out=self.product[: len(total)]))

    def whole(self) -> tuple[PassRows, HeadGradients, RowStatistics | None]:
        """What was found of all rows, and the gradients with what smoothing and a penalty take from all classes."""
        log_partition, nll, uniform, residual = map(torch.cat, zip(*self.found, strict=True))
        head, mean = self.head, None
        if head.spread is not None and head.map is None:
            mean = _mean_class(head, head.spread)
            uniform = torch.mv(head.hidden.to(self.wide), mean)
            uniform = uniform if head.bias is None else uniform + _present(head.bias, head.absent) @ head.spread
        if self.pull is not None and head.map is None:
            self._rest(residual, mean, self.pull)
        uniform = self.share * log_partition - uniform
        lent = RowStatistics(*map(torch.cat, zip(*self.lent, strict=True))) if self.lend else None
        saturated = torch.cat(self.saturated) if self.saturated else None
        return PassRows(log_partition, nll, uniform, saturated), self.gradients, lent

    def _rest(self, residual: Tensor, mean: Tensor | None, pull: RowPull) -> None:
        """The share of the target that is not in the products, and the mean class that smoothing pulls towards."""
        head = self.head
        if head.absent is None and pull.uniform is None and pull.partition is None:
            return  # then the products have it all
        hidden, weight, bias = self.gradients
        states = head.hidden.to(self.wide)
        if hidden is not None:
            hidden.add_(head.weight[head.targets] * residual.unsqueeze(1))
        if weight is not None:
            weight.index_add_(0, head.targets, states * residual.unsqueeze(1))
        if bias is not None:
            bias.index_add_(0, head.targets, residual)
        if mean is None or pull.uniform is None or head.spread is None:
            return
        if hidden is not None:
            hidden.addr_(pull.uniform, mean, alpha=-1)
        if weight is not None:
            weight.addr_(head.spread, pull.uniform @ states, alpha=-1)
        if bias is not None:
            bias.sub_(head.spread * pull.uniform.sum())


def chunk_rows(rows: int, classes: int, device: torch.device, *, half: bool = False) -> int:
    """Rows of a chunk, so many that the last one is no remnant."""
    if half and device.type == "cpu":
        # Each chunk adds a product to a float32 sum, which costs as much for few rows as for many; and when that sum is
        # lowered in the end, more is allocated than such a chunk takes.
        most = MOST_ROWS
    elif device.type == "cpu":
        most = max(FEWEST_ROWS, min(MOST_ROWS, CHUNK_ELEMENTS // classes))
    else:
        most = max(MOST_ROWS, 4 * chunk_elements(device) // classes)
    return max(1, -(-rows // max(1, -(-rows // most))))


def _mean_class(head: LinearHead, spread: Tensor) -> Tensor:
    """Mean of the rows of the head as smoothing weighs them, ``[features]``, lifted a few rows at a time."""
    mean = spread.new_zeros(head.weight.shape[1])
    for first in range(0, len(spread), HALF_CLASSES):
        some = slice(first, first + HALF_CLASSES)
        mean.addmv_(head.weight[some].T.to(spread.dtype), spread[some])
    return mean


def _present(bias: Tensor, absent: Tensor | None) -> Tensor:
    return bias if absent is None else bias.masked_fill(absent, 0.0)
