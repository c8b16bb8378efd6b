from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from logitwatch.states.extrema import Extrema
from logitwatch.states.moments import Moments
from logitwatch.states.protocol import State, maximised, merge_fields, pack, summed, to_device, unpack


@dataclass(frozen=True)
class Pair:
    """Two states in one, and fields of its own around them."""

    rows: Tensor = summed()
    moments: Moments
    extrema: Extrema
    largest: Tensor = maximised()

    @classmethod
    def of(cls, values: Tensor) -> Pair:
        largest = values.amax(keepdim=True).double()
        return cls(torch.tensor(len(values)), Moments.of(values), Extrema.of(values), largest)

    @classmethod
    def empty(cls) -> Pair:
        nothing = torch.full((1,), -torch.inf, dtype=torch.float64)
        return cls(torch.tensor(0), Moments.empty(), Extrema.empty(), nothing)

    def merge(self, other: Pair) -> Pair:
        return merge_fields(self, other)


def test_states_nest() -> None:
    pair = Pair.of(torch.tensor([1.0, 2.0])).merge(Pair.of(torch.tensor([7.0])))
    assert isinstance(pair, State)
    assert (pair.rows.item(), pair.moments.mean.item(), pair.extrema.maximum.item()) == (3, 10 / 3, 7.0)
    assert pair.largest.tolist() == [7.0]


def test_a_nested_state_is_packed_in_the_order_of_its_fields() -> None:
    packed = pack(Pair.of(torch.tensor([1.0, 2.0])))
    assert packed.sums.tolist() == [2.0, 2.0, 3.0, 5.0]
    assert packed.maxima.tolist() == [2.0, -1.0, 2.0]
    assert packed.sums.dtype == packed.maxima.dtype == torch.float64
    restored = unpack(Pair.empty(), packed)
    assert (restored.rows.dtype, restored.moments.count.item(), restored.largest.tolist()) == (torch.int64, 2, [2.0])


@dataclass(frozen=True)
class Count:
    """A state of one integer."""

    rows: Tensor = summed()


@dataclass(frozen=True)
class Largest:
    """A state of one integer that is maximised."""

    rows: Tensor = maximised()


@pytest.mark.parametrize("kind", [Count, Largest])
def test_a_state_of_one_integer_is_packed_in_the_accumulator_type(kind) -> None:
    packed = pack(kind(torch.tensor(3)))
    assert packed.sums.dtype == packed.maxima.dtype == torch.float64
    assert sorted((packed.sums.numel(), packed.maxima.numel())) == [0, 1]
    restored = unpack(kind(torch.tensor(0)), packed)
    assert (restored.rows.dtype, restored.rows.item()) == (torch.int64, 3)


def test_a_packed_state_that_does_not_fit_is_named() -> None:
    packed = pack(Count(torch.tensor(3)))
    with pytest.raises(ValueError, match="packed state does not fit Count: 2 sums left over"):
        unpack(Count(torch.tensor(0)), packed._replace(sums=torch.zeros(3)))
    with pytest.raises(ValueError, match="packed state does not fit Count"):
        unpack(Count(torch.tensor(0)), packed._replace(maxima=torch.zeros(1)))
    with pytest.raises(ValueError, match="packed state is too short: expected 1 more numbers, got 0"):
        unpack(Count(torch.tensor(0)), packed._replace(sums=torch.zeros(0)))


def test_moving_reaches_nested_states() -> None:
    assert to_device(Pair.empty(), "meta").moments.total.device.type == "meta"


def test_what_has_no_merge_is_no_state() -> None:
    assert not isinstance(torch.zeros(()), State)
