"""Rows of which no rank has the logits: classes split over ranks, put together at a report, or never built at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from logitwatch.capture.observation import Observation
from logitwatch.capture.sharding import Placed
from logitwatch.functional.row_statistics import RowStatistics
from logitwatch.functional.sharded_rows import SplitRows

__all__ = ["split_rows", "whole_observation"]


def split_rows(placed: Placed, *, class_dim: int = -1, ignore_index: int | None = -100) -> SplitRows:
    """The rows of a call whose classes are split, as a look keeps them; none where another rank counts them.

    Args:
        placed: This rank's part, with a shard.
        class_dim: The class axis.
        ignore_index: See `Observation.of`.

    Raises:
        ValueError: If the shapes of logits and targets do not belong together.

    Examples:
        >>> from logitwatch.functional.sharded_rows import ClassShard
        >>> shard = ClassShard(group=0, offset=1, size=1, num_classes=2)
        >>> rows = split_rows(Placed(torch.tensor([[3.0]]), torch.tensor([1]), None, True, shard))
        >>> rows.logits, rows.valid, rows.high
        (tensor([[3.]]), tensor([True]), tensor([3.]))
    """
    assert placed.shard is not None
    logits = placed.logits
    if placed.shard.size == 0:  # more ranks than classes: one class that is absent instead, for the shape
        shape = list(logits.shape)
        shape[class_dim] = 1
        logits = torch.full(shape, -torch.inf, device=logits.device)
    seen = Observation.of(logits, placed.targets, class_dim=class_dim, ignore_index=ignore_index, mask=placed.mask)
    keep = None if placed.counted else 0
    targets = None if seen.targets is None else seen.targets[:keep]
    high, low = seen.extremes
    rows = seen.logits[:keep, : placed.shard.size]
    return SplitRows(placed.shard, rows, targets, seen.valid[:keep], high[:keep], low[:keep])


def whole_observation(
    rows: RowStatistics,
    targets: Tensor | None,
    valid: Tensor,
    num_classes: int,
    **about: Any,
) -> Observation:
    """An observation of rows whose quantities are known and whose logits are nowhere, for what reads only quantities.

    Its ``logits`` are on the meta device: they have a shape and no values.

    Args:
        rows: Quantities of the rows.
        targets: Class indices ``[rows]``, or None.
        valid: Rows that count, ``[rows]`` bool.
        num_classes: Width of a row.
        **about: ``stage``, ``source`` and ``step`` of the observation, and what else it takes; with ``logits_of``, a
            function of row indices, the logits of a sample can be read.

    Examples:
        >>> from logitwatch.functional.row_statistics import row_statistics
        >>> known = row_statistics(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
        >>> seen = whole_observation(known, torch.tensor([1]), torch.tensor([True]), 2, stage="val")
        >>> seen.nll, seen.num_classes, seen.logits.device.type
        (tensor([2.1269]), 2, 'meta')
    """
    nowhere = torch.empty(len(valid), num_classes, 1, device="meta")
    observation = Observation(nowhere, targets, valid, **{"leading_shape": (len(valid),), **about})
    # Where a cached property keeps its value.
    observation.__dict__.update(statistics=rows, extremes=(rows.max_logit, rows.min_logit))
    return observation
