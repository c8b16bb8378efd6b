"""The pass of a linear cross-entropy whose classes are split over ranks: one exchange for each chunk of rows."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype, full_precision
from logitwatch.functional.row_statistics import RowStatistics
from logitwatch.functional.sharded_rows import ShardPartials, combine_partials, shard_partials
from logitwatch.losses.inputs import may_look
from logitwatch.losses.linear_pass import HALF_CLASSES, HeadGradients, LinearHead, PassRows, RowPull, chunk_rows
from logitwatch.losses.linear_shards import HeadShard
from logitwatch.losses.softmax_blocks import LOG2_E

__all__ = ["sharded_pass"]

# What ranks tell one another: a line of their own, then one for each row. Always as much, also where only some of them
# are asked for statistics, or they would wait for one another for ever.
UNIFORM, SATURATED = len(ShardPartials._fields), len(ShardPartials._fields) + 1
COLUMNS = SATURATED + 1
# The line of a rank: a checksum of its targets, whether its statistics are there, what smoothing weighs its classes by.
TARGETS, ASKED, PRESENT, WEIGHTS = range(4)
CHECKSUM_BITS = 50  # are exact in float64


class _Softmax(NamedTuple):
    """What all ranks together know of each row of a chunk, in the type of the sums."""

    log_partition: Tensor
    nll: Tensor
    scale: Tensor  # what makes probabilities of exponentials of this shard


def sharded_pass(
    head: LinearHead,
    shard: HeadShard,
    pull: RowPull | None = None,
    needs: tuple[bool, bool, bool] = (True, True, True),
    *,
    lend: bool,
) -> tuple[PassRows, HeadGradients, RowStatistics | None]:
    """See `linear_pass`; each rank of the group calls it with the same rows and its own classes.

    For each chunk of rows there is one all-gather of what each shard knows of them, 14 float64 numbers a row, so logits
    are made once; the gradient of the hidden states is summed over ranks once, in the end. What is found of the rows
    and that gradient are the same on all ranks, those of weight and bias are of this rank's classes.

    Args:
        head: This rank's classes, except for ``targets``, which are counted among all; ``spread`` is class weights, 0
            for an absent class, not divided by the number of present classes.
        shard: Which classes these are.
        pull: See `linear_pass`.
        needs: See `linear_pass`.
        lend: Whether the statistics are wanted: known where all ranks want them, elsewhere not finite.

    Raises:
        ValueError: If ranks were given different targets (on a CPU).
    """
    with full_precision(head.hidden.device):
        work = _ShardedPass(head, shard, pull, needs, lend=lend)
        for first in range(0, max(1, len(head.hidden)), work.size):
            work.chunk(slice(first, first + work.size))
        return work.whole()


class _ShardedPass:
    """What goes on from chunk to chunk."""

    def __init__(
        self, head: LinearHead, shard: HeadShard, pull: RowPull | None, needs: tuple[bool, bool, bool], *, lend: bool
    ) -> None:
        self.head, self.shard, self.pull, self.lend = head, shard, pull, lend
        hidden = head.hidden
        self.wide = torch.promote_types(hidden.dtype, torch.float32)
        self.sums = accumulator_dtype(hidden.device)
        self.gradients = HeadGradients.zeros(head, needs if pull is not None else (False, False, False))
        # The same on all ranks, whatever the size of their shards.
        self.size = chunk_rows(len(hidden), shard.most, hidden.device)
        self.logits = hidden.new_empty(min(self.size, len(hidden)), len(head.weight), dtype=self.wide)
        self.found: list[tuple[Tensor, Tensor, Tensor]] = []
        self.lent: list[RowStatistics] = []
        self.saturated: list[Tensor] = []

    def chunk(self, rows: slice) -> None:
        """Logits of some rows, the exchange, and the two products that make the gradients."""
        head = self.head
        z = self._logits(rows)
        kept = None if head.map is None else head.map.apply(z)
        line, told = self._told(z, rows, kept)
        top = told[:, 0].clone()
        # An absent row has no maximum to be taken off.
        z.sub_(top.masked_fill(top == -torch.inf, 0.0).to(self.wide).unsqueeze(1)).mul_(LOG2_E).exp2_()
        # Whether or not statistics are wanted, which must not change a bit of the loss.
        told[:, ShardPartials._fields.index("log_sum")] = z.sum(1).to(self.sums).log()
        lines, parts = self._exchanged(line, told)
        softmax = self._softmax(parts, top)
        share, present = lines[:, WEIGHTS].sum(), lines[:, PRESENT].sum().clamp(min=1)
        uniform = (share * softmax.log_partition - parts[..., UNIFORM].sum(0)) / present
        if self.lend:
            self._lend(parts, lines[:, ASKED].amin() == 1)
        softmax = _Softmax(*(values.to(self.wide) for values in softmax))
        self.found.append((softmax.log_partition, softmax.nll, uniform.to(self.wide)))
        if self.pull is not None:
            self._pull(z, rows, softmax, kept, (share / present).to(self.wide), present.to(self.wide))
            self._products(z, rows)

    def whole(self) -> tuple[PassRows, HeadGradients, RowStatistics | None]:
        """What was found of all rows, and the gradients."""
        log_partition, nll, uniform = map(torch.cat, zip(*self.found, strict=True))
        if self.gradients.hidden is not None:
            dist.all_reduce(self.gradients.hidden, group=self.shard.group)
        lent = RowStatistics(*map(torch.cat, zip(*self.lent, strict=True))) if self.lend else None
        saturated = torch.cat(self.saturated) if self.saturated else None
        return PassRows(log_partition, nll, uniform, saturated), self.gradients, lent

    def _logits(self, rows: slice) -> Tensor:
        head = self.head
        hidden = head.hidden[rows]
        z = self.logits[: len(hidden)]
        if z.dtype == hidden.dtype:
            torch.mm(hidden, head.weight.T, out=z)
        else:
            z.copy_(torch.mm(hidden, head.weight.T))
        return z if head.bias is None else z.add_(head.bias)

    def _told(self, z: Tensor, rows: slice, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """What this rank says of itself, ``[COLUMNS]``, and of each row, ``[rows, COLUMNS]``."""
        head, offset = self.head, self.shard.classes.offset
        targets, counted = head.targets[rows], head.counted[rows]
        line, told = z.new_zeros(COLUMNS, dtype=self.sums), z.new_zeros(len(z), COLUMNS, dtype=self.sums)
        if self.lend or z.shape[1] == 0:
            partials = shard_partials(z, targets.masked_fill(~counted, -1), offset=offset)
            told[:, :UNIFORM] = torch.stack(partials, dim=1)
        else:
            here, place = self._place(targets, counted)
            found = z.gather(1, place.unsqueeze(1)).squeeze(1).masked_fill(~here, torch.nan)
            told[:, 0] = z.amax(1)
            told[:, ShardPartials._fields.index("target_logit")] = found
        if head.spread is not None:
            present = z if head.absent is None else z.masked_fill(head.absent, 0.0)
            told[:, UNIFORM] = torch.mv(present, head.spread)
            line[PRESENT] = z.shape[1] if head.absent is None else (~head.absent).sum()
            line[WEIGHTS] = head.spread.sum()
        if self.lend and head.map is not None and kept is not None:
            saturated = head.map.saturated(kept, head.absent)
            told[:, SATURATED] = 0 if saturated is None else saturated
        line[TARGETS] = _checksum(targets, counted)
        line[ASKED] = self.lend
        return line, told

    def _exchanged(self, line: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """What all ranks say of themselves, ``[ranks, COLUMNS]``, and of each row, ``[ranks, rows, COLUMNS]``."""
        mine = torch.cat((line.unsqueeze(0), told))
        theirs = mine.new_empty(self.shard.ranks, *mine.shape)
        dist.all_gather(list(theirs), mine, group=self.shard.group)
        same = (theirs[:, 0, TARGETS] == line[TARGETS]).all()
        if not may_look(same):
            torch._assert_async(same)  # waits for no device
        elif not same:
            raise ValueError(
                "ranks that share the classes of linear_weight must be given the same rows, got different targets; a "
                "weight that is sharded to save memory, as by fully_shard, must be gathered for this loss"
            )
        return theirs[:, 0], theirs[:, 1:]

    def _softmax(self, parts: Tensor, own_top: Tensor) -> _Softmax:
        """See `combine_partials`; in the type of `sums`."""
        shards = ShardPartials(*parts[..., :UNIFORM].unbind(-1))
        top = shards.max_logit.amax(0)
        log_total = (shards.max_logit - top + shards.log_sum).logsumexp(0)
        absent = shards.target_logit.isnan()
        target = shards.target_logit.masked_fill(absent, 0.0).sum(0).masked_fill(absent.all(0), torch.nan)
        return _Softmax(top + log_total, log_total - (target - top), (own_top - top - log_total).exp())

    def _lend(self, parts: Tensor, asked: Tensor) -> None:
        rows = combine_partials(ShardPartials(*parts[..., :UNIFORM].unbind(-1)), dtype=self.wide)
        self.lent.append(rows._replace(max_logit=rows.max_logit.where(asked, torch.nan)))
        if self.head.map is not None:
            self.saturated.append(parts[..., SATURATED].sum(0))

    def _place(self, targets: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows have their target here, and where; any place for the others."""
        local, size = targets - self.shard.classes.offset, self.shard.classes.size
        return counted & (local >= 0) & (local < size), local.clamp(0, max(0, size - 1))

    def _pull(
        self, z: Tensor, rows: slice, softmax: _Softmax, kept: Tensor | None, share: Tensor, present: Tensor
    ) -> None:
        """Turn exponentials into the gradient of the logits."""
        assert self.pull is not None
        head, pull = self.head, self.pull.of(rows)
        targets, counted = head.targets[rows], head.counted[rows]
        force = pull.target
        if pull.uniform is not None:
            force = force + share * pull.uniform
        if pull.partition is not None:
            force = force + 2 * pull.partition * softmax.log_partition
        z.mul_((force * softmax.scale).unsqueeze(1))
        if z.shape[1]:
            # p_y - 1 from the NLL: the difference itself would cancel. An impossible target has nothing to pull.
            possible = softmax.nll.isfinite()
            missing = torch.where(possible, torch.expm1(-softmax.nll), 0.0)
            aimed = force * missing + force.masked_fill(~possible, 0.0) - pull.target
            here, place = self._place(targets, counted)
            column = place.unsqueeze(1)
            z.scatter_(1, column, torch.where(here, aimed, z.gather(1, column).squeeze(1)).unsqueeze(1))
        if head.spread is not None and pull.uniform is not None:
            z.addr_(pull.uniform, head.spread / present, alpha=-1)
        if head.map is not None and kept is not None:
            head.map.pull(z, kept)
        z.masked_fill_(~counted.unsqueeze(1), 0.0)  # whose logits may be NaN

    def _products(self, z: Tensor, rows: slice) -> None:
        head, (hidden, weight, bias) = self.head, self.gradients
        pulled = z.to(head.weight.dtype)
        if hidden is not None:
            hidden[rows] = torch.mm(pulled, head.weight)
        if bias is not None:
            bias.add_(z.sum(0))
        if weight is None:
            return
        states = head.hidden[rows].masked_fill(~head.counted[rows].unsqueeze(1), 0.0)
        if pulled.dtype == self.wide:
            weight.addmm_(pulled.T, states)
            return
        for first in range(0, len(weight), HALF_CLASSES):
            some = slice(first, first + HALF_CLASSES)
            weight[some].add_(torch.mm(pulled[:, some].T, states))


def _checksum(targets: Tensor, counted: Tensor) -> Tensor:
    """A number that differs where targets do, unless by accident."""
    place = torch.arange(1, len(targets) + 1, device=targets.device)
    total: Tensor = ((targets + 1) * counted * (place * place + 1)).sum().remainder(2**CHECKSUM_BITS)
    return total
