import sys

import pytest
import torch
from helpers.dtensors import RANKS, batch, pretending, shards, spread
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from logitwatch.capture.observation import Observation
from logitwatch.capture.sharding import is_distributed, local_rows, locate
from logitwatch.functional.sharded_rows import ClassShard


def test_a_plain_tensor_is_all_there_is():
    assert locate(torch.zeros(2, 3)) is None
    assert locate(nn.Parameter(torch.zeros(2, 3))) is None
    assert locate(torch.zeros(2, 3).as_subclass(type("Sub", (torch.Tensor,), {}))) is None


def test_without_the_module_of_dtensors_nothing_is_one(monkeypatch):
    parameter = nn.Parameter(torch.zeros(2, 3))
    for module in (None, type(sys)("half_imported")):
        monkeypatch.setitem(sys.modules, "torch.distributed.tensor", module)
        assert locate(parameter) is None


@pytest.mark.parametrize("rank", range(RANKS))
def test_rows_split_over_one_dimension_and_classes_over_the_other(rank):
    shard, replicate, _ = shards()
    z, y = batch(6, classes=5)
    with pretending(rank) as mesh:
        placed = locate(spread(z, mesh, (shard(0), shard(1))), spread(y, mesh, (shard(0), replicate())))
    row, column = divmod(rank, 2)
    assert torch.equal(placed.logits, z[3 * row : 3 * row + 3, 3 * column : 3 * column + 3])
    assert torch.equal(placed.targets, y[3 * row : 3 * row + 3])
    assert placed.counted
    assert placed.shard == ClassShard(2 * row, 3 * column, 3 - column, 5)


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_transposed_mesh_has_its_groups_across(rank):
    shard, _, _ = shards()
    z, _ = batch(6, classes=4)
    with pretending(rank) as mesh:
        placed = locate(spread(z, mesh, (shard(1), shard(0))))
    assert placed.shard == ClassShard(rank % 2, 2 * (rank // 2), 2, 4)


@pytest.mark.parametrize("rank", range(RANKS))
def test_rows_that_are_the_same_on_several_ranks_are_counted_once(rank):
    shard, replicate, _ = shards()
    z, _ = batch(6)
    with pretending(rank) as mesh:
        whole = locate(spread(z, mesh, (shard(0), replicate())))
        everywhere = locate(spread(z, mesh, (replicate(), replicate())))
        split = locate(spread(z, mesh, (replicate(), shard(1))))
    assert (whole.counted, whole.shard) == (rank % 2 == 0, None)
    assert len(whole.logits) == 3
    assert (everywhere.counted, everywhere.shard) == (rank == 0, None)
    # Both shards of the first group count: neither knows the rows alone.
    assert (split.counted, split.shard.group) == (rank < 2, 2 * (rank // 2))


@pytest.mark.parametrize("classes", [3, 4, 5, 9, 10])
def test_classes_are_divided_as_torch_does_down_to_none(classes):
    shard, _, _ = shards()
    z, _ = batch(2, classes=classes)
    pieces = []
    for rank in range(RANKS):
        with pretending(rank, (RANKS,)) as mesh:
            placed = locate(spread(z, mesh, (shard(1),)))
        assert placed.logits.shape[1] == placed.shard.size
        assert torch.equal(placed.logits, z[:, placed.shard.offset :][:, : placed.shard.size])
        pieces.append(placed.logits)
    assert torch.equal(torch.cat(pieces, dim=1), z)


def test_a_mesh_dimension_of_one_rank_divides_nothing():
    shard, _, partial = shards()
    z, y = batch(6)
    with pretending(3, (1, 4)) as mesh:
        placed = locate(spread(z, mesh, (shard(1), shard(0))), spread(y, mesh, (shard(0), shard(0))))
        assert placed.shard is None
        assert placed.counted
        pending = torch.distributed.tensor.DTensor.from_local(z, mesh, (partial(), shard(0)), run_check=False)
        assert locate(pending).shard is None


def test_the_class_axis_may_lie_in_the_middle():
    shard, replicate, _ = shards()
    z, y = batch(4, 6)
    with pretending(1) as mesh:
        placed = locate(
            spread(z.transpose(1, 2), mesh, (shard(2), shard(1))),
            spread(y, mesh, (shard(1), replicate())),
            class_dim=1,
        )
    assert torch.equal(placed.logits, z[:, :3, 5:].transpose(1, 2))
    assert torch.equal(placed.targets, y[:, :3])


def test_yes_or_no_logits_are_all_rows():
    shard, replicate, _ = shards()
    z, _ = batch(4)
    with pretending(3) as mesh:
        logits, targets = (spread(t, mesh, (replicate(), shard(1))) for t in (z, (z > 0).float()))
        placed = locate(logits, targets, binary=True)
    assert (placed.shard, placed.counted) == (None, False)
    assert torch.equal(placed.targets, (z[:, 5:] > 0).float())


def test_probabilities_go_with_whole_rows():
    shard, replicate, _ = shards()
    z, _ = batch(4)
    with pretending(2) as mesh:
        logits, targets = (spread(t, mesh, (shard(0), replicate())) for t in (z, z.softmax(1)))
        placed = locate(logits, targets)
        assert torch.equal(placed.targets, z[2:].softmax(1))
        split, soft = (spread(t, mesh, (shard(0), shard(1))) for t in (z, z.softmax(1)))
        with pytest.raises(ValueError, match="must be indices, got probabilities"):
            locate(split, soft)


def test_a_mask_is_placed_as_the_targets_are():
    shard, replicate, _ = shards()
    z, y = batch(4)
    with pretending(2) as mesh:
        logits = spread(z, mesh, (shard(0), shard(1)))
        targets, mask = (spread(t, mesh, (shard(0), replicate())) for t in (y, y > 3))
        assert torch.equal(locate(logits, targets, mask).mask, y[2:] > 3)


def test_logits_that_cannot_be_read_without_communication_are_refused():
    shard, replicate, partial = shards()
    from torch.distributed.tensor import DTensor

    z, y = batch(4)
    with pretending(1) as mesh:
        with pytest.raises(ValueError, match="must not be a pending sum"):
            locate(DTensor.from_local(z, mesh, (partial(), replicate()), run_check=False))
        with pytest.raises(ValueError, match="split once and in one piece"):
            locate(spread(z, mesh, (shard(1), shard(1))))
        logits = spread(z, mesh, (shard(0), shard(1)))
        for placements in ((replicate(), replicate()), (shard(0), shard(0)), (replicate(), shard(0))):
            with pytest.raises(ValueError, match="must be placed as the rows of the logits are"):
                locate(logits, spread(y, mesh, placements))
        other = init_device_mesh("cpu", (4,))
        with pytest.raises(ValueError, match="must be placed as the rows of the logits are"):
            locate(logits, spread(y, other, (replicate(),)))
        turned = DeviceMesh("cpu", [[0, 2], [1, 3]])
        with pytest.raises(ValueError, match="must be placed as the rows of the logits are"):
            locate(logits, spread(y, turned, (shard(0), replicate())))
        uneven = DTensor.from_local(
            z[:, :3], mesh, (replicate(), shard(1)), run_check=False, shape=(4, 10), stride=(10, 1)
        )
        with pytest.raises(ValueError, match="expected 5 classes on rank 1, got 3"):
            locate(uneven)


def test_classes_in_alternating_pieces_are_refused():
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Replicate, _StridedShard

    z, _ = batch(4)
    with pretending(1) as mesh:
        strided = DTensor.from_local(
            z[:, 5:],
            mesh,
            (Replicate(), _StridedShard(1, split_factor=2)),
            run_check=False,
            shape=(4, 10),
            stride=(10, 1),
        )
        with pytest.raises(ValueError, match="split once and in one piece"):
            locate(strided)


def test_a_rank_outside_the_mesh_has_nothing_to_say():
    shard, _, _ = shards()
    z, _ = batch(4)
    with pretending(3):
        mesh = DeviceMesh("cpu", [0, 1])
        placed = locate(spread(z, mesh, (shard(1),)))
    assert (placed.counted, placed.shard) == (False, None)


def test_whole_rows_are_an_observation_on_one_of_the_ranks_that_hold_them():
    shard, replicate, _ = shards()
    z, y = batch(6)
    y[5] = -100
    held = []
    for rank in range(RANKS):
        with pretending(rank) as mesh:
            placements = (shard(0), replicate())
            logits, targets, mask = (spread(t, mesh, placements) for t in (z, y, y != 3))
            held.append(Observation.of(logits, targets, mask=mask))
    assert [seen.num_rows for seen in held] == [3, 0, 3, 0]
    assert torch.equal(torch.cat([seen.logits for seen in held]), z)
    assert torch.equal(torch.cat([seen.valid for seen in held]), (y != -100) & (y != 3))
    assert len(held[1].statistics.entropy) == 0


def test_yes_or_no_logits_split_over_their_last_axis_are_an_observation():
    shard, _, _ = shards()
    z, _ = batch(4)
    with pretending(1, (RANKS,)) as mesh:
        logits, targets = (spread(t, mesh, (shard(1),)) for t in (z, (z > 0).float()))
        seen = Observation.of(logits, targets, binary=True)
    assert torch.equal(seen.extremes[0], z[:, 3:6].reshape(-1))


def test_split_classes_are_no_whole_rows():
    shard, _, _ = shards()
    z, _ = batch(4)
    with (
        pretending(1, (RANKS,)) as mesh,
        pytest.raises(ValueError, match=r"whole rows on each rank, got classes on axis 1 and .* logitwatch\.observe"),
    ):
        local_rows(spread(z, mesh, (shard(1),)))


def test_nothing_but_a_dtensor_is_distributed():
    _, replicate, _ = shards()
    with pretending(1, (RANKS,)) as mesh:
        assert is_distributed(spread(torch.zeros(4), mesh, (replicate(),)))
    assert not any(map(is_distributed, (torch.zeros(2), nn.Parameter(torch.zeros(2)), None, 3)))
