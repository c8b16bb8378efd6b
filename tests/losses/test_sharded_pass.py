"""One rank that has all classes; tests/end_to_end/test_linear_loss_shards.py has two of them."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from logitwatch.functional.sharded_rows import ClassShard
from logitwatch.losses.linear_pass import LinearHead, RowPull, linear_pass
from logitwatch.losses.linear_shards import HeadShard
from logitwatch.losses.logit_maps import SoftCap
from logitwatch.losses.sharded_pass import sharded_pass

ROWS, FEATURES, CLASSES = 6, 3, 7
NEEDS = (True, True, True)


@pytest.fixture
def shard() -> Iterator[HeadShard]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield HeadShard(dist.group.WORLD, 1, True, ClassShard.of([0], 0, CLASSES))
    finally:
        dist.destroy_process_group()


def head(**changes: Any) -> LinearHead:
    generator = torch.Generator().manual_seed(0)
    shapes = (ROWS, FEATURES), (CLASSES, FEATURES), (CLASSES,)
    hidden, weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    targets, counted = torch.tensor([0, 3, 6, 2, 0, 5]), torch.tensor([1, 1, 1, 1, 0, 1]).bool()
    return LinearHead(hidden, weight, bias, None, targets, counted, None, None)._replace(**changes)


def pull() -> RowPull:
    counted = head().counted.double()
    return RowPull(0.8 * counted, 0.2 * counted, 0.1 * counted)


@pytest.mark.parametrize("lend", [True, False])
def test_one_shard_of_all_classes_is_the_whole(shard: HeadShard, lend: bool) -> None:
    raw = torch.linspace(0.5, 1.5, CLASSES, dtype=torch.float64)
    for through in (None, SoftCap(0.5)):
        expected = linear_pass(head(spread=raw / CLASSES, map=through), pull(), lend=lend)
        found = sharded_pass(head(spread=raw, map=through), shard, pull(), lend=lend)
        torch.testing.assert_close(found[1:], expected[1:], equal_nan=True)
        for name, one, other in zip(found[0]._fields, found[0], expected[0], strict=True):
            if name == "saturated":
                assert (one is None) == (other is None) == (not lend or through is None)
            else:
                # of a row that does not count the NLL means nothing
                torch.testing.assert_close(one[head().counted], other[head().counted], msg=name)


def test_without_a_pull_there_are_rows_and_no_gradient(shard: HeadShard) -> None:
    rows, gradients, statistics = sharded_pass(head(), shard, lend=False)
    z: Tensor = head().hidden @ head().weight.T + head().bias
    torch.testing.assert_close(rows.log_partition, z.logsumexp(-1))
    assert tuple(gradients) == (None, None, None)
    assert statistics is None


def test_a_row_of_infinities_that_does_not_count_pulls_at_nothing(shard: HeadShard) -> None:
    given = head()
    given.hidden[4] = torch.inf
    _, found, _ = sharded_pass(given, shard, pull(), lend=False)
    _, expected, _ = sharded_pass(head(), shard, pull(), lend=False)
    torch.testing.assert_close(found, expected)


def test_no_rows_are_an_exchange_of_nothing(shard: HeadShard) -> None:
    none = head()._replace(**{name: getattr(head(), name)[:0] for name in ("hidden", "targets", "counted")})
    rows, gradients, statistics = sharded_pass(none, shard, RowPull(torch.zeros(0).double()), lend=True)
    assert rows.nll.shape == (0,)
    assert gradients.weight is not None
    assert not gradients.weight.any()
    assert statistics is not None


def test_only_gradients_that_are_needed_are_made(shard: HeadShard) -> None:
    _, gradients, _ = sharded_pass(head(), shard, pull(), (False, True, False), lend=False)
    assert gradients.hidden is None
    assert gradients.weight is not None
    assert gradients.bias is None
