"""Every state is a commutative monoid, and seeing parts equals seeing the whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import CLASSES, STATE_KINDS, StateKind, assert_same_state, batches, size_of_sums
from torch import Tensor

from logitwatch.states.protocol import Packed, pack, unpack

every_state = pytest.mark.parametrize("kind", STATE_KINDS.values(), ids=STATE_KINDS.keys())
# A law runs once for each state: a share of the examples for each is enough, and keeps the suite quick.
share = settings(max_examples=settings().max_examples * 2 // 5)
Batch = tuple[Tensor, Tensor]


@every_state
@share
@given(batch=batches())
def test_merging_with_empty_changes_nothing(kind: StateKind, batch: Batch) -> None:
    seen = kind.of(*batch)
    assert_same_state(seen.merge(kind.empty()), seen, tolerance=0)
    assert_same_state(kind.empty().merge(seen), seen, tolerance=0)


@every_state
@share
@given(a=batches(), b=batches())
def test_merging_does_not_depend_on_the_order(kind: StateKind, a: Batch, b: Batch) -> None:
    # Addition and maximum of two numbers commute exactly, in floating point too.
    assert_same_state(kind.of(*a).merge(kind.of(*b)), kind.of(*b).merge(kind.of(*a)), tolerance=0)


@every_state
@share
@given(a=batches(), b=batches(), c=batches())
def test_merging_does_not_depend_on_the_grouping(kind: StateKind, a: Batch, b: Batch, c: Batch) -> None:
    x, y, z = kind.of(*a), kind.of(*b), kind.of(*c)
    assert_same_state(x.merge(y).merge(z), x.merge(y.merge(z)), scale=size_of_sums(torch.cat((a[0], b[0], c[0]))))


@every_state
@share
@given(batch=batches(), cuts=st.lists(st.integers(0, 6), max_size=3))
def test_any_split_equals_the_whole(kind: StateKind, batch: Batch, cuts: list[int]) -> None:
    z, y = batch
    merged = kind.empty()
    for part in torch.tensor_split(torch.arange(len(z)), sorted(cuts)):
        merged = merged.merge(kind.of(z[part], y[part]))
    assert_same_state(merged, kind.of(z, y), scale=size_of_sums(z))


@every_state
@share
@given(batch=batches(), seed=st.integers(0, 2**16))
def test_the_order_of_rows_is_of_no_account(kind: StateKind, batch: Batch, seed: int) -> None:
    z, y = batch
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
    assert_same_state(kind.of(z[order], y[order]), kind.of(z, y), scale=size_of_sums(z))


@every_state
@share
@given(a=batches(), b=batches())
def test_packed_states_merge_as_the_states_do(kind: StateKind, a: Batch, b: Batch) -> None:
    one, two = pack(kind.of(*a)), pack(kind.of(*b))
    merged = Packed(one.sums + two.sums, torch.maximum(one.maxima, two.maxima))
    assert_same_state(unpack(kind.empty(), merged), kind.of(*a).merge(kind.of(*b)), tolerance=0)


@every_state
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@share
@given(batch=batches())
def test_half_precision_gives_the_numbers_of_the_same_values_in_float32(
    kind: StateKind, dtype: torch.dtype, batch: Batch
) -> None:
    z, y = batch
    half = z.to(dtype)
    assert_same_state(kind.of(half, y), kind.of(half.float(), y), tolerance=0)


@every_state
def test_the_size_of_a_state_does_not_depend_on_how_much_it_saw(kind: StateKind) -> None:
    generator = torch.Generator().manual_seed(0)
    state, sizes = kind.empty(), set()
    for rows in (1, 7, 100, 0) * 5:
        z = torch.randn(rows, CLASSES, generator=generator)
        state = state.merge(kind.of(z, torch.zeros(rows, dtype=torch.int64)))
        packed = pack(state)
        sizes.add((packed.sums.nbytes, packed.maxima.nbytes))
    assert sizes == {(pack(kind.empty()).sums.nbytes, pack(kind.empty()).maxima.nbytes)}
