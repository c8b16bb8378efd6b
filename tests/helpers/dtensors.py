"""DTensors without ranks: one process pretends to be any rank of a mesh."""

import contextlib

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

RANKS = 4
NAMES = ("one", "two")


def batch(*shape, classes=10, seed=0):
    """Logits ``[*shape, classes]`` and targets ``[*shape]``."""
    generator = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(*shape, classes, generator=generator)
    return z, torch.randint(classes, shape, generator=generator)


@contextlib.contextmanager
def pretending(rank, shape=(2, 2)):
    """This process as one of 4 ranks on a mesh; whatever is communicated comes to nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=RANKS, store=FakeStore())
    try:
        yield init_device_mesh("cpu", shape, mesh_dim_names=NAMES[-len(shape) :])
    finally:
        dist.destroy_process_group()


def spread(tensor, mesh, placements):
    """A DTensor of the part of ``tensor`` this rank has, made without communication."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def shards():
    """The kinds of placement, imported late: a test may be about there being none."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    return Shard, Replicate, Partial
