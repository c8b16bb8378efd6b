"""A bounded random sample of validation rows with their logits, of all ranks, for a calibrator to be fitted to."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from logitwatch.callbacks.reduction import rank, world_size
from logitwatch.capture.observation import Observation
from logitwatch.functional.numerics import upcast
from logitwatch.states.sharded_rows import row_keys

__all__ = ["HeldOut", "HeldOutRows"]

# Logits kept at most, 64 MiB in float32, whatever the number of classes and rows.
MOST_ELEMENTS = 2**24


class HeldOutRows(NamedTuple):
    """Rows to fit to, no ignored one among them, in an order that is the same on every rank."""

    keys: Tensor  # [rows] float64, the largest first
    logits: Tensor  # [rows, classes], float32 or wider, on the CPU
    targets: Tensor  # [rows] int64


class HeldOut:
    """Draws rows as they come; each row of a validation is as likely to be kept as any other.

    Each row has a random key, and the rows with the largest keys are kept. Keys are a hash of the batch and the rank,
    so the same validation gives the same sample.

    Args:
        max_rows: Rows kept at most, over all ranks.

    Examples:
        >>> held = HeldOut(max_rows=2)
        >>> held.add(Observation.of(torch.randn(5, 3), torch.tensor([0, 1, 2, -100, 0])))
        >>> held.gathered().logits.shape
        torch.Size([2, 3])
    """

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self._kept: HeldOutRows | None = None
        self._batches = 0

    def add(self, seen: Observation) -> None:
        """Draw from one more batch, without a look at a value; one without labels or logits has nothing to draw."""
        if seen.unbuilt:
            seen = seen.sample(self._room(seen.num_classes))
        if seen.targets is None or seen.num_classes < 2 or seen.logits.device != seen.valid.device:
            return
        logits, targets = _exclusive(seen)
        seed = self._batches * world_size() + rank()
        self._batches += 1
        # A row that counts is drawn before any that does not.
        keys = row_keys(len(logits), seed, device=logits.device) + (seen.valid & ~seen.bad_target)
        if self._kept is None:
            room = self._room(logits.shape[1])
            self._kept = HeldOutRows(
                keys.new_zeros(room), logits.new_zeros(room, logits.shape[1]), targets.new_zeros(room)
            )
        best = keys.topk(min(len(keys), len(self._kept.keys)))
        place = self._kept.keys.topk(len(best.values), largest=False).indices
        # The best of the new beside the worst of the old: where it is better it takes the place.
        better = best.values > self._kept.keys[place]
        for old, new in zip(self._kept, (keys, logits, targets), strict=True):
            mask = better if old.ndim == 1 else better.unsqueeze(1)
            old[place] = torch.where(mask, new[best.indices].to(old), old[place])

    def _room(self, classes: int) -> int:
        return max(1, min(self.max_rows, MOST_ELEMENTS // classes))

    def gathered(self) -> HeldOutRows | None:
        """The sample of all ranks, each of which must ask; None where nothing was drawn. Then it begins anew."""
        kept, self._kept, self._batches = self._kept, None, 0
        parts = [None if kept is None else HeldOutRows(*(tensor.cpu() for tensor in kept))]
        if world_size() > 1:
            parts = parts * world_size()
            dist.all_gather_object(parts, parts[0])
        there = [part for part in parts if part is not None]
        if len({part.logits.shape[1] for part in there}) != 1:
            return None
        keys, logits, targets = map(torch.cat, zip(*there, strict=True))
        order = keys.argsort(descending=True, stable=True)[: min(self.max_rows, int((keys >= 1).sum()))]
        return HeldOutRows(keys[order], logits[order], targets[order]) if len(order) else None


def _exclusive(seen: Observation) -> tuple[Tensor, Tensor]:
    """Logits of exclusive classes, float32 or wider, and class indices: the likeliest class of soft labels."""
    logits, targets = upcast(seen.logits), seen.targets
    assert targets is not None
    if seen.binary:
        return torch.cat((torch.zeros_like(logits), logits), dim=-1), (targets > 0.5).long()
    return logits, (targets.argmax(-1) if targets.ndim == 2 else targets)
