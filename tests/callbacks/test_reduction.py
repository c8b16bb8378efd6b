import pytest
import torch
import torch.distributed as dist
from helpers.ranks import on_ranks
from strategies import STATE_KINDS, assert_same_state, size_of_sums

from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.reduction import agreed, reduced, world_size

CPU = torch.device("cpu")


class Broken:
    """Not a state: it cannot be packed."""


RANKS = 2


def batch(seed, rows=40):
    generator = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(rows, 3, generator=generator)
    y = torch.randint(3, (rows,), generator=generator)
    z[0, 0], z[1, 1], z[2, 2], y[3], y[4] = torch.nan, torch.inf, -torch.inf, -100, 3
    return z, y


def states(*seeds):
    """One of every state, of the batches of some ranks."""
    z, y = (torch.cat(parts) for parts in zip(*map(batch, seeds), strict=True))
    return [kind.of(z, y) for kind in STATE_KINDS.values()]


def rank_main(rank, folder):
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    before = states(rank)
    nothing = [kind.empty() for kind in STATE_KINDS.values()]
    whole = reduced(before, nothing, CPU)
    for state, again in zip(before, states(rank), strict=True):
        assert_same_state(state, again, tolerance=0)
    # The second rank saw nothing, as with an uneven last batch: it must still take part.
    one_sided = reduced(states(0) if rank == 0 else [None] * len(nothing), nothing, CPU)
    # On the second rank one state is of the wrong kind and the rest is sound.
    faults = Faults()
    faulty = [Broken(), *states(rank)[1:]] if rank == 1 else before
    lame = reduced(faulty, nothing, CPU, faults)
    return {
        "world": world_size(),
        "whole": whole,
        "one_sided": one_sided,
        "lame": (lame, faults.count),
        "agreed": agreed((20, 256) if rank == 0 else (50, 64), CPU),
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return on_ranks(rank_main, RANKS, folder)


@pytest.mark.ranks
def test_two_ranks_know_what_one_that_saw_everything_knows(results):
    z = torch.cat([batch(rank)[0] for rank in range(RANKS)])
    for result in results:
        assert result["world"] == RANKS
        for whole, union in zip(result["whole"], states(*range(RANKS)), strict=True):
            assert_same_state(whole, union, scale=size_of_sums(z), tolerance=1e-12)


@pytest.mark.ranks
def test_both_ranks_hold_the_same_bits(results):
    for one, other in zip(results[0]["whole"], results[1]["whole"], strict=True):
        assert_same_state(one, other, tolerance=0)


@pytest.mark.ranks
def test_a_rank_that_saw_nothing_adds_nothing(results):
    for result in results:
        for whole, alone in zip(result["one_sided"], states(0), strict=True):
            assert_same_state(whole, alone, tolerance=0)


@pytest.mark.ranks
def test_ranks_agree_on_the_rarest_look_and_the_fewest_rows(results):
    assert [result["agreed"] for result in results] == [(50, 64)] * RANKS


@pytest.mark.ranks
def test_a_rank_whose_state_cannot_be_packed_still_takes_part_and_counts_it(results):
    assert [result["lame"][1] for result in results] == [0, 1]
    for result in results:
        first, *others = result["lame"][0]
        assert_same_state(first, states(0)[0], tolerance=0)
        for state, whole in zip(others, result["whole"][1:], strict=True):
            assert_same_state(state, whole, tolerance=0)


def test_alone_nothing_is_communicated_and_nothing_changes():
    before, nothing = states(0), [kind.empty() for kind in STATE_KINDS.values()]
    for state, same in zip(before, reduced(before, nothing, CPU), strict=True):
        assert state is same
    assert reduced([None], nothing[:1], CPU) == nothing[:1]
    assert reduced([], [], CPU) == []
    assert world_size() == 1
    assert agreed((7, 9), CPU) == (7, 9)
