import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import CLASSES, IGNORE_INDEX, assert_same_state, batches
from torch import Tensor

from logitwatch.functional.row_statistics import RowStatistics, row_statistics
from logitwatch.functional.sharded_rows import ClassShard, SplitRows
from logitwatch.states.protocol import Packed, State, pack, to_device, unpack
from logitwatch.states.sharded_rows import MOST_NUMBERS, ShardedRows, WholeRows, fitting_capacity, row_keys

RANKS, CAPACITY = 4, 8
Batch = tuple[Tensor, Tensor]


def batch(rows: int, *, seed: int = 0, classes: int = CLASSES) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, classes, generator=generator), torch.randint(classes, (rows,), generator=generator)


def look(z: Tensor, y: Tensor | None, place: int, *, shards: int = 2, group: int = 0) -> SplitRows:
    """The look of one rank at its shard of these rows, divided as `torch.chunk` does."""
    chunk = -(-z.shape[1] // shards)
    offset = min(z.shape[1], chunk * place)
    own = z[:, offset : offset + chunk]
    valid = torch.ones(len(z), dtype=torch.bool, device=z.device) if y is None else y != IGNORE_INDEX
    some = own if own.shape[1] else torch.full((len(z), 1), -torch.inf)
    low = some.masked_fill(some == -torch.inf, torch.inf).amin(1)
    return SplitRows(ClassShard(group, offset, own.shape[1], z.shape[1]), own, y, valid, some.amax(1), low)


def of(seen: SplitRows, rank: int, *, seed: int = 0, capacity: int = CAPACITY) -> ShardedRows:
    return ShardedRows.of(seen, rank=rank, ranks=RANKS, capacity=capacity, seed=seed)


def one_rank(b: Batch, seed: int) -> ShardedRows:
    return of(look(*b, place=1), rank=1, seed=seed)


def reduced(*states: ShardedRows) -> ShardedRows:
    """As ranks do it: a packed SUM and a packed MAX."""
    packed = [pack(state) for state in states]
    sums, maxima = torch.stack([p.sums for p in packed]).sum(0), torch.stack([p.maxima for p in packed]).amax(0)
    return unpack(ShardedRows.empty(RANKS, states[0].rows.shape[1]), Packed(sums, maxima))


def two_groups(looks: list[Batch], others: list[Batch], *, capacity: int = CAPACITY) -> WholeRows:
    """What 4 ranks know, of which each two hold the same rows; ranks 0 and 2 are one group, as in a transposed mesh."""
    states = []
    for rank in range(RANKS):
        group, place = rank % 2, rank // 2
        state = ShardedRows.empty(RANKS, capacity)
        for seed, b in enumerate((looks, others)[group]):
            state = state.merge(of(look(*b, place=place, group=group), rank, seed=seed, capacity=capacity))
        states.append(state)
    return reduced(*states).assembled()


def assert_rows_of(found: WholeRows, z: Tensor, y: Tensor) -> None:
    """The rows are these, in any order."""
    expected = row_statistics(z, y)
    order, other = found.rows.log_partition.argsort(), expected.log_partition.argsort()
    for name, a, b in zip(RowStatistics._fields, found.rows, expected, strict=True):
        # Sums of three float32 terms, rounded once more at the end.
        torch.testing.assert_close(a[order].double(), b[other].double(), rtol=1e-5, atol=1e-5, msg=name)
    assert found.targets is not None
    assert torch.equal(found.targets[order], y[other])


@given(a=batches(max_rows=12), b=batches(max_rows=12), c=batches(max_rows=12))
def test_on_one_rank_it_is_a_commutative_monoid(a: Batch, b: Batch, c: Batch) -> None:
    x, y, z = one_rank(a, 1), one_rank(b, 2), one_rank(c, 3)
    nothing = ShardedRows.empty(RANKS, CAPACITY)
    assert_same_state(x.merge(nothing), x, tolerance=0)
    assert_same_state(nothing.merge(x), x, tolerance=0)
    assert_same_state(x.merge(y), y.merge(x), tolerance=0)
    assert_same_state(x.merge(y).merge(z), x.merge(y.merge(z)), tolerance=0)


@given(a=batches(), b=batches())
def test_between_ranks_the_packed_sum_is_the_merge(a: Batch, b: Batch) -> None:
    one, two = of(look(*a, place=0), rank=0), of(look(*b, place=1), rank=3)
    assert_same_state(reduced(one, two), one.merge(two), tolerance=0)


@given(b=batches())
def test_it_is_a_state_of_one_size(b: Batch) -> None:
    state, nothing = one_rank(b, 0), ShardedRows.empty(RANKS, CAPACITY)
    assert isinstance(state, State)
    for field in dataclasses.fields(state):
        x, y = getattr(state, field.name), getattr(nothing, field.name)
        assert not isinstance(x, Tensor) or (x.shape, x.dtype) == (y.shape, y.dtype)
    assert_same_state(unpack(nothing, pack(state)), state, tolerance=0)
    assert_same_state(state.merge(state.merge(state)), state.merge(state).merge(state), tolerance=0)


def test_two_groups_know_the_rows_of_both() -> None:
    looks, others = [batch(3, seed=1), batch(4, seed=2)], [batch(5, seed=3)]
    found = two_groups(looks, others)
    z, y = (torch.cat(parts) for parts in zip(*looks, *others, strict=True))
    assert_rows_of(found, z, y)
    assert found.counts.tolist() == [12, 0, 0, 0]
    assert (found.num_classes, found.lost) == (CLASSES, 0)
    assert found.valid.all()
    assert (found.extrema.maximum.item(), found.extrema.minimum.item()) == (z.max().item(), z.min().item())


@given(seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4), rows=st.integers(0, 20))
def test_all_shards_keep_the_same_rows_however_many_there_were(seeds: list[int], rows: int) -> None:
    looks = [batch(rows, seed=seed) for seed in seeds]
    found = two_groups(looks, [])
    z, _ = (torch.cat(parts) for parts in zip(*looks, strict=True))
    assert len(found.valid) == min(CAPACITY, len(z))
    assert found.lost == 0
    everything = row_statistics(z).log_partition
    assert all(torch.isclose(everything, lse, rtol=1e-6).any() for lse in found.rows.log_partition)
    assert found.counts[0] == len(z)


def test_rows_that_count_are_kept_before_others() -> None:
    z, y = batch(20)
    y[:14] = IGNORE_INDEX
    found = two_groups([(z, y)], [])
    assert int(found.valid.sum()) == 6
    assert len(found.valid) == CAPACITY


def test_every_row_is_as_likely_to_be_kept() -> None:
    kept = torch.zeros(32)
    for seed in range(400):
        z = torch.arange(32.0).unsqueeze(1).expand(32, 2)
        state = of(look(z, None, place=0), rank=0, seed=seed)
        kept[state.rows[0, :, 3].long()] += 1
    # Each of 32 rows is kept 100 times in 400 of 8: within five standard deviations of a binomial.
    assert kept.sum() == 400 * CAPACITY
    assert (kept - 100).abs().max() < 5 * (400 * 0.25 * 0.75) ** 0.5


def test_counts_are_exact_where_all_rows_are_kept() -> None:
    z, y = batch(7)
    z[0], z[1, 0], z[2, 2] = -torch.inf, torch.nan, torch.inf
    y[3], y[4], y[1] = IGNORE_INDEX, CLASSES, IGNORE_INDEX
    assert two_groups([(z, y)], [(z, y)]).counts.tolist() == [14, 6, 2, 2]


@pytest.mark.parametrize(("many", "few"), [(0, 2), (2, 0)])
def test_counts_of_more_rows_are_those_of_the_shard_with_the_most_nonfinite_ones(many: int, few: int) -> None:
    z, y = batch(50)
    z[:5, many], z[0, few] = torch.nan, torch.inf
    y[0], y[6], y[7] = IGNORE_INDEX, IGNORE_INDEX, -1
    found = two_groups([(z, y)], [])
    assert found.counts.tolist() == [50, 5, 1, 1]
    assert found.counts[0] > len(found.valid)


def test_rows_known_to_be_nonfinite_take_no_part_in_the_extremes() -> None:
    z, y = batch(4)
    z[0, 0], z[0, 1] = torch.nan, 1e6
    z[1, 0], z[1, 1] = torch.inf, -1e6
    z[2, 2] = -torch.inf
    finite = torch.cat((z[:2, 2], z[2, :2], z[3]))
    extrema = two_groups([(z, y)], []).extrema
    assert (extrema.maximum.item(), extrema.minimum.item()) == (finite.max().item(), finite.min().item())


def test_a_row_without_a_class_in_one_shard_is_not_counted_as_nonfinite() -> None:
    z, y = batch(50)
    z[:, 2] = -torch.inf
    found = two_groups([(z, y)], [])
    assert found.counts.tolist() == [50, 0, 0, 0]
    assert found.rows.finite.all()


def test_classes_may_run_against_the_order_of_ranks() -> None:
    z, y = batch(5)
    assert_rows_of(reduced(of(look(z, y, 1), rank=0), of(look(z, y, 0), rank=3)).assembled(), z, y)


def test_more_ranks_than_classes() -> None:
    z, y = batch(5, classes=3)
    states = [of(look(z, y, place, shards=RANKS), rank=place) for place in range(RANKS)]
    assert states[3].layout[3].tolist() == [1, 3, 0, 3, 1]
    found = reduced(*states).assembled()
    assert_rows_of(found, z, y)
    assert found.lost == 0
    # The one without a class is not missed.
    assert_rows_of(reduced(*states[:3]).assembled(), z, y)


def test_without_targets_there_are_none() -> None:
    z, _ = batch(5)
    found = reduced(*(of(look(z, None, place), rank=place) for place in range(2))).assembled()
    assert found.targets is None
    assert found.counts.tolist() == [5, 0, 0, 0]
    assert found.rows.nll.isnan().all()


def test_rows_of_which_a_shard_is_missing_are_lost_and_counted() -> None:
    z, y = batch(5)
    states = [of(look(z, y, rank // 2, group=rank % 2), rank) for rank in range(RANKS)]
    states[2] = ShardedRows.empty(RANKS, CAPACITY)
    found = reduced(*states).assembled()
    assert_rows_of(found, z, y)  # those of the other group
    assert found.lost == 5
    assert found.counts.tolist() == [10, 0, 0, 0]


@pytest.mark.parametrize("present", [0, 1])
def test_a_look_one_rank_missed_is_lost_and_the_other_looks_are_not(present: int) -> None:
    first, second = batch(3, seed=1), batch(4, seed=2)
    states = [of(look(*first, place), rank=place, seed=1) for place in range(2)]
    states[present] = states[present].merge(of(look(*second, present), rank=present, seed=2))
    found = reduced(*states).assembled()
    assert_rows_of(found, *first)
    assert found.lost == 4


def test_shards_that_do_not_make_the_classes_are_not_put_together() -> None:
    z, y = batch(5)
    seen = [look(z, y, place) for place in range(2)]
    wrong = seen[1]._replace(shard=seen[1].shard._replace(offset=0))
    assert reduced(of(seen[0], 0), of(wrong, 1)).assembled().lost == 5


def test_nobody_saw_anything() -> None:
    found = ShardedRows.empty(RANKS, CAPACITY).assembled()
    assert len(found.valid) == len(found.rows.entropy) == 0
    assert (found.targets, found.lost, found.counts.tolist()) == (None, 0, [0, 0, 0, 0])


def test_filling_and_merging_wait_for_no_device() -> None:
    # A tensor on the meta device has no values, so to look at one raises where an accelerator would wait.
    z, y = (t.to("meta") for t in batch(20))
    filled = one_rank((z, y), 0)
    state = filled.merge(to_device(ShardedRows.empty(RANKS, CAPACITY), "meta"))
    assert state.rows.device.type == filled.extrema.maximum.device.type == "meta"


def test_the_default_device_of_the_process_is_of_no_account() -> None:
    z, y = batch(20)
    seen = [look(z, y, place) for place in range(2)]
    states = [of(s, rank) for rank, s in enumerate(seen)]
    expected, nothing = reduced(*states).assembled(), ShardedRows.empty(RANKS, CAPACITY)
    with torch.device("meta"):
        again = [of(s, rank).merge(nothing) for rank, s in enumerate(seen)]
        found = again[0].merge(again[1]).assembled()
        assert len(nothing.assembled().valid) == 0
    for a, b in zip(again, states, strict=True):
        assert_same_state(a, b, tolerance=0)
    for a, b in zip(found.rows, expected.rows, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(found.counts, expected.counts)


def test_it_keeps_no_graph() -> None:
    z, y = batch(5)
    state = one_rank((z.requires_grad_(), y), 0)
    assert not any(t.requires_grad for t in (state.rows, state.counts, state.extrema.maximum))


def test_keys_are_those_of_splitmix64() -> None:
    def reference(seed: int, row: int) -> float:
        mask = 2**64 - 1
        x = (seed + row * 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        x ^= x >> 31
        return ((x >> 12) | 1) / 2**52

    for seed in (0, 1, 10**12, -5):
        assert row_keys(100, seed).tolist() == [reference(seed, row) for row in range(100)]


def test_keys_are_spread_evenly_and_differ_between_looks() -> None:
    keys = torch.cat([row_keys(1000, seed) for seed in range(20)])
    assert len(keys.unique()) == 20_000
    counts = keys.mul(20).long().bincount(minlength=20)
    # 1000 a bin; five standard deviations of a binomial.
    assert (counts - 1000).abs().max() < 5 * (20_000 * 0.05 * 0.95) ** 0.5


def test_slots_of_any_number_of_ranks_stay_within_their_room() -> None:
    for ranks in (1, 2, 64, 1024, 10_000):
        capacity = fitting_capacity(4096, ranks)
        assert 1 <= capacity <= 4096
        assert ShardedRows.empty(ranks, capacity, device="meta").rows.numel() <= MOST_NUMBERS


@pytest.mark.parametrize("capacity", [3, 100])
def test_a_look_fills_its_own_slot_alone_by_falling_key(capacity: int) -> None:
    state = of(look(*batch(20), place=1), rank=2, capacity=capacity)
    assert not state.rows[[0, 1, 3]].any()
    assert not state.counts[[0, 1, 3]].any()
    keys = state.rows[2, :, 0]
    assert torch.equal(keys, keys.sort(descending=True).values)
    assert int((keys > 0).sum()) == min(20, capacity)
