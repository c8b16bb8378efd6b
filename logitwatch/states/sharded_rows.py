"""Rows whose classes are split over ranks: each rank's shards of a sample of rows, until a report brings them together.

One shard of a row says neither its entropy nor its confidence, and a look must not communicate. So each rank keeps what
its shards say of a bounded sample of rows, the same rows on every rank of a group, in a slot of its own. The one SUM of
a report lays the slots side by side, and every rank makes the whole rows from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.functional.row_statistics import RowStatistics
from logitwatch.functional.sharded_rows import ClassShard, ShardPartials, SplitRows, combine_partials, shard_partials
from logitwatch.states.extrema import Extrema
from logitwatch.states.protocol import maximised, merge_fields, nested, summed

__all__ = ["ShardedRows", "WholeRows", "fitting_capacity", "row_keys"]

# Columns of a kept row: its key, 0 where there is no row; whether it counts; its target; then `ShardPartials`.
KEY, VALID, TARGET, PARTIALS = 0, 1, 2, 3
COLUMNS = PARTIALS + len(ShardPartials._fields)
# Columns of the row counts.
SEEN, NONFINITE, IGNORED, BAD_TARGET = range(4)
# All slots together hold at most so many numbers, 4 MiB, however many ranks there are.
MOST_NUMBERS = 2**19
# The constants of splitmix64, as signed numbers.
GOLDEN, MIX_1, MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


class WholeRows(NamedTuple):
    """What all ranks together know: a sample of whole rows, and counts and extremes of every row."""

    rows: RowStatistics  # of the sample
    targets: Tensor | None  # [sample] int64
    valid: Tensor  # [sample] bool
    num_classes: int
    counts: Tensor  # int64: rows seen, non-finite, ignored, with a bad target
    extrema: Extrema
    lost: int  # rows that some ranks kept and others of their group did not


@dataclass(frozen=True)
class ShardedRows:
    """A random sample of rows, at most ``capacity`` a rank, with what the rank's shard of classes says of each.

    Every row has a random key that is the same on all ranks of its group, and the rows with the largest keys are kept:
    so all shards keep the same rows, whatever the number of looks, and no rank asks another. Rows that count come
    before others. On one rank merging keeps the largest keys of both sides; between ranks, of which each fills its own
    slot alone, that is the sum, so the state travels in the packed SUM as any other.

    Extrema are of every row; a row that is not finite in another shard is not known to be so and takes part in them.
    Row counts are exact if all rows are in the sample. Otherwise they are those of the shard that saw the most
    non-finite rows: exact where the non-finite logits of a window are of one shard, a lower bound elsewhere.

    Examples:
        >>> z, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
        >>> whole = ShardedRows.empty(ranks=2, capacity=4)
        >>> for i, half in enumerate(z.split(1, 1)):
        ...     shard = ClassShard(group=0, offset=i, size=1, num_classes=2)
        ...     seen = SplitRows(shard, half, y, y != -100, half.amax(1), half.amin(1))
        ...     whole = whole.merge(ShardedRows.of(seen, rank=i, ranks=2, capacity=4, seed=0))
        >>> found = whole.assembled()
        >>> sorted(found.rows.margin.tolist()), found.counts.tolist(), found.extrema.maximum.item()
        ([1.0, 2.0], [2, 0, 0, 0], 2.0)
    """

    rows: Tensor = summed()  # float64 [ranks, capacity, COLUMNS], by falling key
    counts: Tensor = summed()  # int64 [ranks, 4]
    layout: Tensor = maximised()  # int64 [ranks, 5]: `ClassShard`, the group counted from 1, and whether with targets
    extrema: Extrema = nested()

    @classmethod
    def empty(cls, ranks: int = 1, capacity: int = 256, *, device: torch.device | str = "cpu") -> ShardedRows:
        """No rows seen by so many ranks, each with room for ``capacity`` rows; see `fitting_capacity`."""
        dtype = accumulator_dtype(torch.device(device))
        return cls(
            torch.zeros(ranks, capacity, COLUMNS, dtype=dtype, device=device),
            torch.zeros(ranks, 4, dtype=torch.int64, device=device),
            torch.zeros(ranks, len(ClassShard._fields) + 1, dtype=torch.int64, device=device),
            Extrema.empty(device=device),
        )

    @classmethod
    def of(cls, seen: SplitRows, *, rank: int, ranks: int, capacity: int, seed: int) -> ShardedRows:
        """One look of one rank. Nothing is communicated and no device is waited for.

        Args:
            seen: This rank's shard of the rows.
            rank: Global rank, whose slot is filled.
            ranks: Number of ranks.
            capacity: Rows of a slot, equal on all ranks.
            seed: Equal on all ranks of the group, another one for each look.
        """
        device = seen.logits.device
        keys = row_keys(len(seen.logits), seed, device=device)
        # A row that counts is drawn before any that does not.
        key, index = (keys + seen.valid).topk(min(capacity, len(keys)))
        targets = None if seen.targets is None else seen.targets[index]
        partials = shard_partials(seen.logits[index].detach(), targets, offset=seen.shard.offset)
        target = torch.zeros_like(key) if targets is None else targets
        kept = torch.stack([t.to(key.dtype) for t in (key, seen.valid[index], target, *partials)], dim=1)
        state = cls.empty(ranks, capacity, device=device)
        state.rows[rank, : len(kept)] = kept
        state.counts[rank] = _counts(seen)
        state.layout[rank] = _layout(seen.shard, seen.targets is not None, device)
        return replace(state, extrema=_extrema(seen))

    def merge(self, other: ShardedRows) -> ShardedRows:
        """See `State.merge`; of each slot the rows with the largest keys of both sides are kept."""
        both = torch.cat((self.rows, other.rows), dim=1)
        order = both[..., KEY].topk(self.rows.shape[1], dim=1).indices
        merged = merge_fields(replace(self, rows=self.counts), replace(other, rows=other.counts))
        return replace(merged, rows=both.take_along_dim(order.unsqueeze(-1), dim=1))

    def assembled(self) -> WholeRows:
        """The whole rows of all groups; for a state that was reduced over all ranks, on the CPU."""
        parts, kept, lost = [], [self.rows.new_empty(0, COLUMNS)], 0
        counts = torch.zeros_like(self.counts[0])
        for slots in self._groups():
            rows, gone = self._common(slots)
            whole = combine_partials(ShardPartials(*rows[..., PARTIALS:].unbind(-1)))
            counts = counts + self._count(slots, rows[0], whole)
            parts.append(whole)
            kept.append(rows[0])
            lost += gone
        if not parts:
            parts = [combine_partials(ShardPartials(*self.rows.new_empty(len(ShardPartials._fields), 1, 0)))]
        sample = torch.cat(kept)
        with_targets = bool(self.layout[:, -1].any())
        return WholeRows(
            rows=RowStatistics(*map(torch.cat, zip(*parts, strict=True))),
            targets=sample[:, TARGET].long() if with_targets else None,
            valid=sample[:, VALID] == 1,
            num_classes=int(self.layout[:, 3].max()),
            counts=counts,
            extrema=self.extrema,
            lost=lost,
        )

    def _groups(self) -> Iterator[Tensor]:
        """Slots of each group, in the order of classes."""
        group = self.layout[:, 0]
        for name in sorted(set(group.tolist()) - {0}):
            slots = (group == name).nonzero().squeeze(1)
            yield slots[self.layout[slots, 1].argsort()]

    def _common(self, slots: Tensor) -> tuple[Tensor, int]:
        """The rows all shards of a group kept, ``[shards, rows, COLUMNS]``, and how many only some kept."""
        held = [slot[slot[:, KEY] > 0] for slot in self.rows[slots]]
        most = max(map(len, held))
        common = held[0][:, KEY] if self._complete(slots) else held[0][:0, KEY]
        for rows in held[1:]:
            common = common[torch.isin(common, rows[:, KEY])]
        # Slots are in the order of keys, so that what is common stands in the same order in each.
        return torch.stack([rows[torch.isin(rows[:, KEY], common)] for rows in held]), most - len(common)

    def _complete(self, slots: Tensor) -> bool:
        """Whether the shards of a group, side by side, make the classes."""
        _, offset, size, num_classes, _ = self.layout[slots].unbind(1)
        ends = size.cumsum(0)
        return bool(torch.equal(offset, ends - size) and (num_classes == ends[-1]).all())

    def _count(self, slots: Tensor, sample: Tensor, whole: RowStatistics) -> Tensor:
        """Row counts of a group: of the sample if it is every row, else of the shard with the most non-finite rows."""
        counts = self.counts[slots]
        counts = counts[counts[:, NONFINITE].argmax()]
        if counts[SEEN] != len(sample):
            return counts
        valid, finite = sample[:, VALID] == 1, whole.finite
        bad = valid & _outside(sample[:, TARGET], int(self.layout[slots[0], 3]))
        return torch.stack((counts[SEEN], (~finite).sum(), (finite & ~valid).sum(), (finite & bad).sum()))


def fitting_capacity(rows: int, ranks: int) -> int:
    """Rows a slot may hold so that all slots stay within 4 MiB: at most ``rows``, at least one.

    Examples:
        >>> fitting_capacity(256, 8), fitting_capacity(256, 1024)
        (256, 34)
    """
    return max(1, min(rows, MOST_NUMBERS // (ranks * COLUMNS)))


def row_keys(rows: int, seed: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Random numbers in ``(0, 1)`` for the rows of a look, the same on any device and of any process.

    A hash (splitmix64) of seed and row instead of a generator: the sequence of a generator depends on the device, and
    its state would have to be the same on all ranks at all times.

    Args:
        rows: How many.
        seed: Any integer.
        device: Where they are made.

    Returns:
        ``[rows]`` in the accumulator type.

    Examples:
        >>> bool((row_keys(3, seed=1) == row_keys(5, seed=1)[:3]).all())
        True
    """
    x = torch.arange(rows, dtype=torch.int64, device=device) * GOLDEN + seed
    for shift, factor in ((30, MIX_1), (27, MIX_2)):
        x = (x ^ _shifted(x, shift)) * factor
    x = x ^ _shifted(x, 31)
    # 52 bits, of which the last is 1: never 0, and exact also when 1 is added.
    return (_shifted(x, 12) | 1).to(accumulator_dtype(x.device)) * 2.0**-52


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift to the right that fills with zeros."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _counts(seen: SplitRows) -> Tensor:
    finite = ~seen.high.isnan() & (seen.high != torch.inf)
    bad = torch.zeros_like(seen.valid)
    if seen.targets is not None:
        bad = seen.valid & _outside(seen.targets, seen.shard.num_classes)
    counted = (torch.ones_like(finite), ~finite, finite & ~seen.valid, finite & bad)
    return torch.stack([mask.sum() for mask in counted])


def _outside(targets: Tensor, num_classes: int) -> Tensor:
    return (targets < 0) | (targets >= num_classes)


def _extrema(seen: SplitRows) -> Extrema:
    finite = seen.high.isfinite()
    high, low = seen.high.where(finite, -torch.inf), seen.low.where(finite, torch.inf)
    return Extrema.of(high.detach(), low.detach())


@cache
def _layout(shard: ClassShard, with_targets: bool, device: torch.device) -> Tensor:
    """Shared, since nothing writes into it."""
    group, *rest = shard
    return torch.tensor([group + 1, *rest, with_targets], dtype=torch.int64, device=device)
