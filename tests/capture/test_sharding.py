"""One rank by itself; two ranks are in tests/fault_matrix/test_ranks.py."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from logitwatch.capture.sharding import is_distributed, local_rows


@pytest.fixture(scope="module")
def mesh():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_plain_tensors_are_given_back():
    z, y = torch.zeros(2, 3), torch.zeros(2)
    assert not is_distributed(z)
    assert local_rows(z, y, -1) == (z, y)


@pytest.mark.parametrize(("name", "dim"), [("rows", 0), ("replicated", None)])
def test_whole_rows_are_read_where_they_lie(mesh, name, dim):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    placement = [Replicate() if dim is None else Shard(dim)]
    z, y = torch.arange(6.0).view(2, 3), torch.arange(2)
    logits, targets = distribute_tensor(z, mesh, placement), distribute_tensor(y, mesh, placement)
    assert is_distributed(logits)
    rows, classes = local_rows(logits, targets, -1)
    assert not is_distributed(rows)
    assert torch.equal(rows, z)
    assert torch.equal(classes, y)
    assert local_rows(logits, None, -1)[1] is None


@pytest.mark.parametrize(("class_dim", "shard"), [(-1, 1), (1, 1), (0, 0)])
def test_spread_classes_are_refused_with_what_to_do(mesh, class_dim, shard):
    from torch.distributed.tensor import Shard, distribute_tensor

    logits = distribute_tensor(torch.zeros(2, 3), mesh, [Shard(shard)])
    with pytest.raises(ValueError, match=r"whole rows on each rank, .* hand them over: logitwatch\.observe"):
        local_rows(logits, None, class_dim)
