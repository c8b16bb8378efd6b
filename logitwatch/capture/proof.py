"""Proof of a capture: the loss recomputed from the rows that were captured, against what the criterion returned."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.capture.criteria import Call
from logitwatch.capture.observation import Observation
from logitwatch.capture.sharding import is_distributed
from logitwatch.functional.numerics import accumulator_dtype, upcast

__all__ = ["Proof", "prove"]

CHUNK_ROWS = 1024


class Proof(NamedTuple):
    """What the captured rows say the loss is, and what the criterion said: numbers on the device until they are asked.

    `residual` and `holds` read them back to the host, which waits for the device.
    """

    source: str
    recomputed: Tensor
    returned: Tensor

    @property
    def residual(self) -> float:
        """Relative difference; at most about ``1e-5`` in float32, ``1e-2`` where the criterion ran in bfloat16."""
        recomputed, returned = self.recomputed.item(), self.returned.item()
        return abs(recomputed - returned) / max(1e-12, abs(returned))

    @property
    def holds(self) -> bool:
        """Whether the two agree to what half precision allows, or are both not finite."""
        return self.residual < 2e-2 or not (isfinite(self.recomputed.item()) or isfinite(self.returned.item()))


def prove(call: Call, observation: Observation) -> Proof | None:
    """Recompute the loss of a call from its observation; None where the criterion cannot be recomputed from rows.

    It costs a second softmax of every row, so it is done once for each stage and source, and waits for no device.

    Examples:
        >>> import torch.nn.functional as F
        >>> from logitwatch.capture.criteria import read_function
        >>> logits, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
        >>> call = read_function(F.cross_entropy, (logits, targets), {}, F.cross_entropy(logits, targets))
        >>> prove(call, Observation.of(logits, targets)).residual < 1e-6
        True
    """
    if call.recompute is None or call.result is None or observation.targets is None or not observation.num_rows:
        return None
    if is_distributed(call.result) or is_distributed(
        call.logits
    ):  # the mean over all ranks, of which few rows are here
        return None
    logits, targets, wide = observation.logits, observation.targets, accumulator_dtype(call.result.device)
    if observation.binary:
        logits = logits.reshape(-1)
    losses = torch.cat(
        [
            call.recompute(upcast(logits[i : i + CHUNK_ROWS]), targets[i : i + CHUNK_ROWS]).to(wide)
            for i in range(0, len(logits), CHUNK_ROWS)
        ]
    )
    recomputed = losses.sum() if call.reduction == "sum" else losses.sum() / _denominator(call, observation)
    returned = call.result.to(wide).mean()
    if call.reduction == "none":
        recomputed = losses.mean()
    return Proof(call.source, recomputed, returned)


def _denominator(call: Call, observation: Observation) -> Tensor | int:
    """What torch's mean divides by: the weights of the counted targets, or the number of rows for soft ones."""
    targets = observation.targets
    assert targets is not None
    if targets.ndim == 2 or observation.binary:
        return len(targets)
    valid = observation.valid
    if call.weight is None:
        return valid.sum()
    # Selecting the counted rows would wait for their number.
    weights = call.weight.to(accumulator_dtype(targets.device))[targets.long().where(valid, 0)]
    return weights.where(valid, 0).sum()
