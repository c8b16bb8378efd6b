import pytest
import torch
import torch.distributed as dist
from helpers.ranks import on_ranks

from logitwatch.callbacks.held_out import MOST_ELEMENTS, HeldOut
from logitwatch.capture.observation import Observation


def batch(rows=50, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, classes, generator=generator), torch.randint(classes, (rows,), generator=generator)


def drawn(batches, max_rows=1000):
    held = HeldOut(max_rows)
    for z, y in batches:
        held.add(Observation.of(z, y, stage="val"))
    return held.gathered()


def test_with_room_every_row_that_counts_is_kept_with_its_target():
    z, y = batch()
    y[3], z[5, 0], y[7] = -100, float("nan"), 9
    kept = drawn([(z, y)])
    assert len(kept.targets) == 48  # the row with NaN has a target and is left to the fit to leave out
    for logits, target in zip(kept.logits, kept.targets, strict=True):
        (place,) = [i for i in range(50) if torch.equal(z[i].nan_to_num(), logits.nan_to_num())]
        assert y[place] == target


def test_a_sample_is_no_larger_than_asked_and_prefers_rows_that_count():
    z, y = batch()
    y[:30] = -100
    assert len(drawn([(z, y)] * 3, max_rows=40).targets) == 40
    assert len(drawn([(z, y)], max_rows=40).targets) == 20


def test_every_row_is_as_likely_to_be_kept():
    z = torch.arange(400.0).repeat(2, 1).T
    batches = [(part, torch.zeros(len(part), dtype=torch.long)) for part in z.split([7, 93, 100, 200])]
    kept = drawn(batches, max_rows=100).logits[:, 0]
    assert len(set(kept.tolist())) == 100
    # 25 of each quarter are expected; the hypergeometric standard deviation is 3.8, and the draw is always the same.
    quarters = torch.histc(kept, bins=4, min=0, max=400)
    assert ((quarters - 25).abs() < 12).all()


def test_the_same_batches_give_the_same_sample_and_draw_nothing_from_the_run():
    before = torch.get_rng_state()
    one, other = (drawn([batch(seed=s) for s in range(5)], max_rows=20) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_is_bounded_by_the_number_of_classes_too():
    held = HeldOut(10**9)
    wide = MOST_ELEMENTS // 4
    held.add(Observation.of(torch.zeros(9, wide), torch.zeros(9, dtype=torch.long), stage="val"))
    assert held.gathered().logits.shape == (4, wide)


def test_it_begins_anew_once_gathered():
    held = HeldOut(10)
    held.add(Observation.of(*batch(), stage="val"))
    assert held.gathered() is not None
    assert held.gathered() is None


@pytest.mark.parametrize(
    "seen",
    [
        Observation.of(torch.zeros(4, 3)),
        Observation.of(torch.zeros(4, 1), torch.zeros(4, dtype=torch.long)),
        Observation.of(torch.zeros(4, 3), torch.full((4,), -100)),
        Observation.of(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)),
    ],
    ids=["no targets", "one class", "all ignored", "no rows"],
)
def test_where_there_is_nothing_to_draw_there_is_nothing(seen):
    held = HeldOut(10)
    held.add(seen)
    assert held.gathered() is None


def test_yes_or_no_logits_become_two_classes_and_soft_labels_their_likeliest():
    held = HeldOut(10)
    held.add(Observation.of(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.3]), binary=True, stage="val"))
    kept = held.gathered()
    assert sorted(zip(kept.logits.tolist(), kept.targets.tolist(), strict=True)) == [([0.0, -1.0], 0), ([0.0, 2.0], 1)]
    held.add(Observation.of(torch.zeros(1, 3), torch.tensor([[0.2, 0.7, 0.1]]), stage="val"))
    assert held.gathered().targets.tolist() == [1]


def test_half_precision_is_lifted_and_no_value_is_looked_at():
    z, y = batch()
    kept = drawn([(z.bfloat16(), y), (z.bfloat16(), y)])
    assert kept.logits.dtype == torch.float32
    held = HeldOut(10)
    for _ in range(2):  # a tensor on the meta device has no values: to look at one raises
        held.add(Observation.of(z.to("meta"), y.to("meta"), stage="val"))


def gather_main(rank, folder):
    dist.init_process_group("gloo")
    held = HeldOut(60)
    for seed in range(2):
        z, y = batch(seed=10 * rank + seed)
        held.add(Observation.of(z, y, stage="val"))
    everything = held.gathered()
    silent = HeldOut(60)
    if rank == 0:
        silent.add(Observation.of(*batch(), stage="val"))
    return everything, silent.gathered()


@pytest.mark.ranks
def test_ranks_gather_the_same_rows_of_all_and_one_without_rows_is_no_trouble(tmp_path):
    (one, few), (other, same) = on_ranks(gather_main, 2, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(few, same, strict=True))
    assert len(one.targets) == 60
    assert len(few.targets) == 50
    parts = [torch.cat([batch(seed=10 * rank + seed)[0] for seed in range(2)]) for rank in range(2)]
    shares = [sum(bool((part == z).all(1).any()) for z in one.logits) for part in parts]
    assert sum(shares) == 60
    assert min(shares) > 15
