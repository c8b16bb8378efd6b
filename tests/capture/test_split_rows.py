"""What a look reads of split rows, and that real ranks make of it the rows there are."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers.dtensors import RANKS, batch, shards, spread
from helpers.ranks import Collectives, on_ranks
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from logitwatch.capture.observation import Observation
from logitwatch.capture.sharding import Placed, locate
from logitwatch.capture.split_rows import split_rows, whole_observation
from logitwatch.functional.row_statistics import RowStatistics, row_statistics
from logitwatch.functional.sharded_rows import ClassShard
from logitwatch.states.protocol import Packed, pack, unpack
from logitwatch.states.sharded_rows import ShardedRows

CAPACITY = 64


def test_what_is_read_has_no_graph_and_counts_what_the_mask_and_the_targets_say():
    shard = ClassShard(group=0, offset=0, size=2, num_classes=4)
    z = torch.tensor([[1.0, -torch.inf], [torch.nan, 0.0], [2.0, 3.0]], requires_grad=True)
    y, mask = torch.tensor([3, -100, 0]), torch.tensor([True, True, False])
    seen = split_rows(Placed(z, y, mask, True, shard))
    assert not seen.logits.requires_grad
    assert seen.valid.tolist() == [True, False, False]
    assert seen.low[[0, 2]].tolist() == [1.0, 2.0]
    assert seen.high[[0, 2]].tolist() == [1.0, 3.0]
    assert seen.high[1].isnan()
    assert split_rows(Placed(z, y, None, True, shard), ignore_index=3).valid.tolist() == [False, True, True]


def test_classes_in_the_middle_become_the_last_axis():
    z, y = batch(2, 3, classes=4)
    shard = ClassShard(group=0, offset=0, size=4, num_classes=8)
    seen = split_rows(Placed(z.mT, y, None, True, shard), class_dim=1)
    assert torch.equal(seen.logits, z.reshape(-1, 4))
    assert torch.equal(seen.targets, y.reshape(-1))


def test_a_shard_without_a_class_has_rows():
    shard = ClassShard(group=0, offset=3, size=0, num_classes=3)
    for shape, class_dim in (((5, 0), -1), ((5, 0), 1), ((1, 0, 5), 1)):
        seen = split_rows(Placed(torch.empty(shape), torch.zeros(5).long(), None, True, shard), class_dim=class_dim)
        assert seen.logits.shape == (5, 0)
        assert seen.high.tolist() == [-torch.inf] * 5
        assert seen.low.tolist() == [torch.inf] * 5


def test_targets_of_another_number_of_rows_are_refused():
    shard = ClassShard(group=0, offset=0, size=2, num_classes=4)
    with pytest.raises(ValueError, match="targets must be class indices of shape"):
        split_rows(Placed(torch.zeros(3, 2), torch.zeros(6).long(), None, True, shard))


def test_an_observation_of_known_rows_says_what_they_say():
    z, y = batch(6)
    y[0], y[1] = -100, 10
    rows, valid = row_statistics(z, y), y != -100
    seen = whole_observation(rows, y, valid, 10, stage="val", source="loss", step=7)
    same = Observation.of(z, y)
    for name in ("max_logit", "entropy", "confidence", "margin", "nll", "correct", "log_partition", "bad_target"):
        torch.testing.assert_close(getattr(seen, name), getattr(same, name), rtol=0, atol=0, equal_nan=True)
    assert [t.tolist() for t in seen.extremes] == [t.tolist() for t in same.extremes]
    assert (seen.num_rows, seen.num_classes, seen.stage, seen.source, seen.step) == (6, 10, "val", "loss", 7)
    assert seen.sample(100) is seen
    with pytest.raises((NotImplementedError, RuntimeError)):
        seen.logits.amax().item()


def looked(state, logits, targets, *, class_dim=-1, seed=0):
    """One look of this rank: the state of its shards, and its whole rows where they are."""
    placed = locate(logits, targets, class_dim=class_dim)
    assert placed is not None
    if placed.shard is None:
        return state, Observation.of(logits, targets, class_dim=class_dim).statistics
    if not placed.counted:
        return state, None
    seen = split_rows(placed, class_dim=class_dim)
    rank = dist.get_rank()
    return state.merge(ShardedRows.of(seen, rank=rank, ranks=RANKS, capacity=CAPACITY, seed=seed)), None


def reduced(state):
    packed = pack(state)
    dist.all_reduce(packed.sums, dist.ReduceOp.SUM)
    dist.all_reduce(packed.maxima, dist.ReduceOp.MAX)
    return unpack(ShardedRows.empty(RANKS, CAPACITY), Packed(*packed)).assembled()


def cases(mesh, line):
    """Name -> logits, targets, class axis, and the plain rows and targets they are."""
    shard, replicate, _ = shards()
    z, y = batch(12)
    z[0], z[1, 2], z[2, 9], z[3, 7], z[4, :5] = -torch.inf, torch.nan, torch.inf, z[3, 1], -torch.inf
    y[5], y[6] = -100, 10
    images, pixels = batch(4, 3)
    found = {
        "rows and classes": (z, (shard(0), shard(1)), y, (shard(0), replicate()), -1),
        "transposed": (z, (shard(1), shard(0)), y, (replicate(), shard(0)), -1),
        "classes alone": (z, (replicate(), shard(1)), y, (replicate(), replicate()), -1),
        "sequences": (images, (shard(0), shard(2)), pixels, (shard(0), replicate()), -1),
        "classes in the middle": (images.mT, (shard(2), shard(1)), pixels, (shard(1), replicate()), 1),
        "half precision": (z.bfloat16(), (shard(0), shard(1)), y, (shard(0), replicate()), -1),
        "whole rows": (z, (shard(0), replicate()), y, (shard(0), replicate()), -1),
    }
    made = {}
    for name, (logits, placements, targets, target_placements, class_dim) in found.items():
        parts = spread(logits, mesh, placements), spread(targets, mesh, target_placements)
        rows = logits.movedim(class_dim, -1).reshape(-1, 10), targets.reshape(-1)
        made[name] = (*parts, class_dim, *rows)
    for classes in (3, 10):  # 1, 1, 1, 0 and 3, 3, 3, 1 classes; plain targets are the same on all
        few, y = batch(7, classes=classes, seed=classes)
        made[f"{classes} over four"] = (spread(few, line, (shard(1),)), y, -1, few, y)
    return made


def main_of_cases(rank, folder):
    from torch.distributed.tensor.debug import CommDebugMode

    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    made = cases(init_device_mesh("cpu", (2, 2)), init_device_mesh("cpu", (RANKS,)))
    result = {}
    for name, (logits, targets, class_dim, z, y) in made.items():
        with Collectives() as called, CommDebugMode() as communicated:
            state, rows = looked(ShardedRows.empty(RANKS, CAPACITY), logits, targets, class_dim=class_dim)
        count = len(called.calls) + communicated.get_total_counts()
        result[name] = (count, reduced(state), rows, row_statistics(z, y))
    with CommDebugMode() as communicated:
        made["classes alone"][0].logsumexp(-1)
    return result, communicated.get_total_counts()


def main_of_training(rank, folder):
    """A head whose classes are split, with torch's parallel loss; the rows differ between the two groups."""
    from torch.distributed.tensor.debug import CommDebugMode
    from torch.distributed.tensor.parallel import ColwiseParallel, loss_parallel, parallelize_module

    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    shard, _, _ = shards()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    torch.manual_seed(0)
    head = nn.Linear(6, 9)
    plan = ColwiseParallel(output_layouts=shard(-1), use_local_output=False)
    head = parallelize_module(head, mesh["tp"], plan)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
    state, rows, communicated = ShardedRows.empty(RANKS, CAPACITY), [], 0
    for step in range(3):
        x, y = batch(5 + step, classes=6, seed=10 * step + rank // 2)
        logits = head(x)
        with loss_parallel():
            loss = F.cross_entropy(logits, y)
            with CommDebugMode() as comm:
                state, _ = looked(state, logits, y, seed=step)
            communicated += comm.get_total_counts()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        rows.append((logits.full_tensor().detach(), y, loss.full_tensor().item()))
    return communicated, reduced(state), rows


def assert_same_rows(found, expected):
    """The same rows in any order."""
    assert len(found.max_logit) == len(expected.max_logit)
    key = [rows.log_partition.nan_to_num(nan=1e9, posinf=2e9, neginf=-1e9).argsort() for rows in (found, expected)]
    finite = expected.finite[key[1]]
    assert found.finite.sum() == expected.finite.sum()
    for name, a, b in zip(RowStatistics._fields, found, expected, strict=True):
        a, b = a[key[0]][finite].double(), b[key[1]][finite].double()
        # Ten float32 terms of size 100, in another order.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True, msg=name)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return on_ranks(main_of_cases, RANKS, tmp_path_factory.mktemp("cases"))


@pytest.mark.ranks
@pytest.mark.slow
def test_real_ranks_know_the_whole_rows_of_every_placement(found):
    for result, _ in found:
        for name, (_, whole, _, expected) in result.items():
            if name != "whole rows":
                assert_same_rows(whole.rows, expected)
                assert (whole.lost, whole.counts[0]) == (0, len(expected.max_logit)), name


@pytest.mark.ranks
@pytest.mark.slow
def test_real_ranks_hold_each_whole_row_once(found):
    parts = [result["whole rows"][2] for result, _ in found]
    assert [len(part.entropy) for part in parts] == [6, 0, 6, 0]
    held = RowStatistics(*map(torch.cat, zip(*parts, strict=True)))
    assert_same_rows(held, found[0][0]["whole rows"][3])
    assert not len(found[0][0]["whole rows"][1].valid)


@pytest.mark.ranks
@pytest.mark.slow
def test_nothing_is_communicated_at_a_look_and_it_would_be_seen(found):
    for result, would_be in found:
        assert {name: count for name, (count, *_) in result.items() if count} == {}
        assert would_be > 0


@pytest.mark.ranks
@pytest.mark.slow
def test_all_real_ranks_know_the_same_bits(found):
    for name in found[0][0]:
        for result, _ in found[1:]:
            for a, b in zip(result[name][1].rows, found[0][0][name][1].rows, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
            assert torch.equal(result[name][1].counts, found[0][0][name][1].counts)


@pytest.mark.ranks
@pytest.mark.slow
def test_a_head_with_split_classes_trained_with_the_parallel_loss(tmp_path):
    ranks = on_ranks(main_of_training, RANKS, tmp_path)
    calls = [call for communicated, _, rows in (ranks[0], ranks[2]) for call in rows]
    z, y = torch.cat([z for z, _, _ in calls]), torch.cat([y for _, y, _ in calls])
    assert len(z) == 2 * (5 + 6 + 7)
    for communicated, whole, rows in ranks:
        assert communicated == 0
        assert_same_rows(whole.rows, row_statistics(z, y))
        assert whole.counts.tolist() == [36, 0, 0, 0]
        for logits, targets, loss in rows:
            torch.testing.assert_close(F.cross_entropy(logits, targets).item(), loss, rtol=1e-5, atol=0)


def test_rows_that_were_never_built_show_the_logits_of_a_sample():
    z, y = batch(100)
    asked = []

    def logits_of(index):
        asked.append(len(index))
        return z[index]

    about = {"leading_shape": (10, 10), "logits_of": logits_of, "known": {"max_logit": z.amax(1)}}
    seen = whole_observation(row_statistics(z, y), y, y != -100, 10, **about)
    assert seen.unbuilt
    assert asked == []
    shown = seen.shown
    assert asked == [64]
    assert (shown.num_rows, shown.unbuilt, shown.shown is shown) == (64, False, True)
    torch.testing.assert_close(shown.statistics, row_statistics(shown.logits, shown.targets), equal_nan=True)
    assert seen.sample(1000).num_rows == 100
    assert seen.sample(64) is shown


def test_rows_put_together_from_shards_can_be_drawn_from():
    z, y = batch(10)
    seen = whole_observation(row_statistics(z, y), y, y != -100, 10)
    assert seen.unbuilt
    assert seen.shown is None
    few = seen.sample(3)
    assert few.num_rows == 3
    assert few.logits.is_meta
    assert few.statistics.entropy.shape == (3,)
