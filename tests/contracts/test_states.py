"""What every state promises, see `logitwatch.states.protocol.State`; merging itself is in tests/laws."""

import dataclasses
import io

import pytest
import torch
from strategies import CLASSES, STATE_KINDS, StateKind, assert_same_state
from torch import Tensor

from logitwatch.states.protocol import Packed, State, pack, to_device, unpack

pytestmark = pytest.mark.parametrize("kind", STATE_KINDS.values(), ids=STATE_KINDS.keys())


def batch(rows: int = 50, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(rows, CLASSES, generator=generator)
    y = torch.randint(CLASSES, (rows,), generator=generator)
    z[0, 0], z[1, 1], z[2, 2], y[3] = torch.nan, torch.inf, -torch.inf, -100
    return z, y


def tensors(state: State) -> list[Tensor]:
    values = [getattr(state, field.name) for field in dataclasses.fields(state)]
    return [t for value in values for t in ([value] if isinstance(value, Tensor) else tensors(value))]


def test_it_is_a_state(kind: StateKind) -> None:
    assert isinstance(kind.empty(), State)


def test_it_is_frozen(kind: StateKind) -> None:
    state = kind.empty()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(state, dataclasses.fields(state)[0].name, torch.zeros(()))


def test_merging_leaves_both_sides_as_they_were(kind: StateKind) -> None:
    one, two = kind.of(*batch(seed=1)), kind.of(*batch(seed=2))
    before = [t.clone() for t in (*tensors(one), *tensors(two))]
    merged = one.merge(two)
    for t in tensors(merged):
        t.add_(1)
    for was, now in zip(before, (*tensors(one), *tensors(two)), strict=True):
        torch.testing.assert_close(now, was, rtol=0, atol=0)


def test_counts_are_int64_and_the_rest_float64(kind: StateKind) -> None:
    for state in (kind.empty(), kind.of(*batch())):
        assert {t.dtype for t in tensors(state)} <= {torch.int64, torch.float64}


def test_empty_and_filled_have_the_same_layout(kind: StateKind) -> None:
    layouts = [[(t.shape, t.dtype) for t in tensors(state)] for state in (kind.empty(), kind.of(*batch()))]
    assert layouts[0] == layouts[1]


def test_a_batch_without_rows_is_empty(kind: StateKind) -> None:
    nothing = kind.of(torch.empty(0, CLASSES), torch.empty(0, dtype=torch.int64))
    assert_same_state(nothing, kind.empty(), tolerance=0)


def test_it_keeps_no_graph(kind: StateKind) -> None:
    z, y = batch()
    assert not any(t.requires_grad for t in tensors(kind.of(z.requires_grad_(), y)))


def test_it_survives_packing(kind: StateKind) -> None:
    state = kind.of(*batch())
    packed = pack(state)
    assert packed.sums.ndim == packed.maxima.ndim == 1
    assert packed.sums.numel() + packed.maxima.numel() == sum(t.numel() for t in tensors(state))
    assert_same_state(unpack(kind.empty(), packed), state, tolerance=0)


def test_a_packed_state_of_another_size_is_refused(kind: StateKind) -> None:
    packed = pack(kind.of(*batch()))
    with pytest.raises(ValueError, match="does not fit"):
        unpack(kind.empty(), Packed(torch.cat((packed.sums, packed.sums.new_zeros(1))), packed.maxima))
    with pytest.raises(ValueError, match="too short"):
        unpack(kind.empty(), Packed(packed.sums[:-1], packed.maxima[:-1]))


def test_it_is_saved_as_plain_tensors(kind: StateKind) -> None:
    state, file = kind.of(*batch()), io.BytesIO()
    torch.save(pack(state)._asdict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert_same_state(unpack(kind.empty(), Packed(**loaded)), state, tolerance=0)


def test_it_moves_between_devices(kind: StateKind) -> None:
    state = kind.of(*batch())
    assert {t.device.type for t in tensors(to_device(state, "meta"))} == {"meta"}
    assert_same_state(to_device(state, "cpu"), state, tolerance=0)


def test_nothing_can_be_seen_on_any_device(kind: StateKind) -> None:
    nothing = type(kind.empty()).empty(device="meta")  # type: ignore[call-arg]
    assert {t.device.type for t in tensors(nothing)} == {"meta"}


def test_filling_and_merging_wait_for_no_device(kind: StateKind) -> None:
    # A tensor on the meta device has no values, so to look at one raises where an accelerator would wait.
    z, y = (t.to("meta") for t in batch())
    filled = kind.of(z, y)
    state = to_device(kind.empty(), "meta").merge(filled)
    assert {t.device.type for t in (*tensors(filled), *tensors(state))} == {"meta"}
    assert pack(state).sums.device.type == "meta"


def test_the_default_device_of_the_process_is_of_no_account(kind: StateKind) -> None:
    # Whoever calls torch.set_default_device may still have a model elsewhere.
    state, nothing = kind.of(*batch()), kind.empty()
    z, y = batch()
    with torch.device("meta"):
        again = kind.of(z, y)
        assert_same_state(again, state, tolerance=0)
        assert_same_state(unpack(nothing, pack(again.merge(kind.empty()))), state, tolerance=0)


def test_counts_are_exact_past_what_float32_can_count(kind: StateKind) -> None:
    state = kind.of(*batch())
    once = [t for t in tensors(state) if t.dtype == torch.int64]
    for _ in range(30):
        state = state.merge(state)
    for t, many in zip(once, [t for t in tensors(state) if t.dtype == torch.int64], strict=True):
        assert torch.equal(many, t * 2**30)
    # A single row more still counts, packed or not: 2 ** 30 * 50 is far above 2 ** 24 and far below 2 ** 53.
    one_more = unpack(kind.empty(), pack(state.merge(kind.of(*batch(5)))))
    assert_same_state(one_more, state.merge(kind.of(*batch(5))), tolerance=0)
