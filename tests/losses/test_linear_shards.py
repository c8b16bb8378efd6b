from typing import Any

import pytest
import torch
from helpers.dtensors import pretending, shards, spread
from torch import Tensor

from logitwatch.losses import linear_cross_entropy
from logitwatch.losses.linear_shards import own_part

H, W, B = torch.zeros(2, 4), torch.arange(36.0).view(9, 4), torch.arange(9.0)


def test_a_whole_head_is_left_alone() -> None:
    hidden, head, bias, shard = own_part(H, W, B)
    assert hidden is H
    assert head is W
    assert bias is B
    assert shard is None


@pytest.mark.parametrize(("rank", "size"), [(0, 3), (1, 3), (2, 3), (3, 0)])
def test_a_rank_has_its_classes(rank: int, size: int) -> None:
    shard, replicate, _ = shards()
    with pretending(rank, (4,)) as mesh:
        given = spread(H, mesh, [replicate()]), spread(W, mesh, [shard(0)]), spread(B, mesh, [shard(0)])
        hidden, head, bias, own = own_part(*given)
        assert own is not None
        assert type(hidden) is type(head) is type(bias) is Tensor
        assert torch.equal(hidden, H)
        assert torch.equal(head, own.of(W))
        assert torch.equal(bias, own.of(B))
        assert len(head) == own.classes.size == size
        assert (own.ranks, own.most, own.counted) == (4, 3, rank == 0)


def test_a_mesh_dimension_of_one_rank_splits_nothing() -> None:
    shard, replicate, _ = shards()
    with pretending(1, (4, 1)) as mesh:
        own = own_part(H, spread(W, mesh, [shard(0), replicate()]), None)[3]
        assert own is not None
        assert own.ranks == 4
        hidden, head, _, whole = own_part(H, spread(W, mesh, [shard(0), shard(0)]), None)
        assert whole == own
        assert len(head) == 3
    with pretending(0, (1, 4)) as mesh:
        one = mesh["one"]
        hidden, head, _, whole = own_part(spread(H, one, [replicate()]), spread(W, one, [shard(0)]), None)
        assert whole is None
        assert type(hidden) is type(head) is Tensor
        assert torch.equal(head, W)


def test_what_is_placed_otherwise_is_refused() -> None:
    shard, replicate, _ = shards()
    with pretending(0, (4,)) as mesh:

        def put(tensor: Tensor, placement: Any) -> Tensor:
            return spread(tensor, mesh, [placement])

        split = put(W, shard(0))
        cases = [
            ((H, put(W, shard(1)), None), r"linear_weight must be split over classes, Shard\(0\), .*Shard\(dim=1\)"),
            ((H, put(W, replicate()), None), "linear_weight must be split over classes"),
            ((put(H, shard(0)), split, None), "input must be whole on each rank of a split linear_weight"),
            ((H, split, B), "linear_bias must be a DTensor placed .* like linear_weight, got a plain tensor"),
            ((H, split, put(B, replicate())), "linear_bias must be a DTensor placed"),
            ((put(H, replicate()), W, None), "input must be a plain tensor where linear_weight is one, got a DTensor"),
            ((H, W, put(B, shard(0))), "linear_bias must be a plain tensor where linear_weight is one"),
        ]
        for given, message in cases:
            with pytest.raises(TypeError, match=message):
                own_part(*given)
    with pretending(0, (2, 2)) as mesh, pytest.raises(TypeError, match="along one dimension of its mesh"):
        own_part(H, spread(W, mesh, [shard(0), shard(0)]), None)
    with pretending(0, (2, 2)) as mesh, pytest.raises(TypeError, match="along one dimension of its mesh"):
        own_part(H, spread(W, mesh, [replicate(), shard(0)]), None)


def test_normalised_logits_of_a_split_head_are_refused() -> None:
    shard, _, _ = shards()
    with pretending(0, (4,)) as mesh, pytest.raises(ValueError, match="logit_norm needs all logits of a row at once"):
        linear_cross_entropy(H, spread(W, mesh, [shard(0)]), torch.tensor([0, 1]), logit_norm=1.0)
