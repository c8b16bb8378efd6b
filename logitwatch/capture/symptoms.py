"""What one call of a criterion shows of how its loss is made: a few numbers left on the device, and plain facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.capture.criteria import Call
from logitwatch.capture.observation import Observation
from logitwatch.capture.proof import prove
from logitwatch.capture.sharding import is_distributed
from logitwatch.functional.numerics import accumulator_dtype, upcast

__all__ = ["HALF_TYPES", "Facts", "Symptoms", "symptoms"]

HALF_TYPES = (torch.bfloat16, torch.float16)
# Rows that are looked into; of wide rows as many as have this many logits in all, but a few.
MOST_ROWS, FEWEST_ROWS, MOST_LOGITS = 64, 8, 1_048_576
MOST_VALUES = 65_536
# How far a row may be from adding up to 1, and its log-partition from 0: rounding, in float32 and in half precision.
TOTAL, HALF_TOTAL = 1e-3, 2e-2
PARTITION, HALF_PARTITION = 1e-3, 4e-2
# A log-partition this far from 0 is no rounding in any type.
UNNORMALISED = 0.1
# How near a bound a number in [0, 1] is said to be crowded against it.
NEAR = 0.02


class Facts(NamedTuple):
    """What is known of a criterion without a number; see `Call`.

    `columns` is how many answers an example has, 0 where that cannot be told from the shape.
    """

    source: str
    kind: str
    binary: bool
    classes: int
    columns: int
    ignore_index: int | None
    label_smoothing: float
    reduction: str
    weighted: bool
    loss_type: torch.dtype | None


class Symptoms(NamedTuple):
    """Facts of the last call, and scalars on the device that add up (``sums``) or of which the largest counts.

    Examples:
        >>> import torch.nn.functional as F
        >>> from logitwatch.capture.criteria import read_function
        >>> p, y = torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 1])
        >>> one = symptoms(read_function(F.cross_entropy, (p, y), {}, F.cross_entropy(p, y)), Observation.of(p, y))
        >>> both = one.merge(one)
        >>> both.sums["rows"].item(), both.sums["probability_rows"].item(), both.highs["counted"].item()
        (4.0, 4.0, 2.0)
    """

    facts: Facts
    sums: Mapping[str, Tensor]
    highs: Mapping[str, Tensor]

    def merge(self, later: Symptoms) -> Symptoms:
        """Of two calls those of both."""
        sums = {n: self.sums[n] + v if n in self.sums else v for n, v in later.sums.items()}
        highs = {n: torch.maximum(self.highs[n], v) if n in self.highs else v for n, v in later.highs.items()}
        return Symptoms(later.facts, {**self.sums, **sums}, {**self.highs, **highs})


def symptoms(call: Call, observation: Observation, *, shadow: bool = False) -> Symptoms | None:
    """The symptoms of one call; None where there are no targets or no rows. Waits for no device, draws nothing.

    Args:
        call: What was given to a criterion.
        observation: Its rows.
        shadow: Recompute a loss that came in half precision in float32, from every row.
    """
    y = observation.targets
    # A loss that makes the logits itself is not given any.
    if y is None or not observation.num_rows or "row_statistics" in (call.lent or {}):
        return None
    wide = accumulator_dtype(y.device)
    result = call.result.detach() if isinstance(call.result, Tensor) and not is_distributed(call.result) else None
    facts = Facts(
        source=call.source,
        kind=call.kind,
        binary=observation.binary,
        classes=observation.num_classes,
        columns=_columns(observation),
        ignore_index=call.ignore_index if y.ndim == 1 and not observation.binary else None,
        label_smoothing=call.label_smoothing,
        reduction=call.reduction,
        weighted=call.weight is not None,
        loss_type=None if result is None else result.dtype,
    )
    sums = _of_targets(observation, y)
    sums |= _of_values(observation) if observation.binary else _of_rows(observation)
    if call.weight is not None and not is_distributed(call.weight):
        sums["bad_weights"] = (~(call.weight.isfinite() & (call.weight >= 0))).sum()
    if result is not None:
        sums |= _of_loss(result, sums["counted"])
    if shadow and facts.loss_type in HALF_TYPES and (proof := prove(call, observation)) is not None:
        sums |= {"shadow": proof.recomputed, "shadowed": proof.returned}
    highs = {"counted": sums["counted"], "fewest": -sums["counted"], **_range(observation, y)}
    return Symptoms(facts, _as(wide, sums), _as(wide, highs))


def _columns(observation: Observation) -> int:
    shape = observation.leading_shape
    if not observation.binary:
        return int(len(shape) == 1)
    return shape[1] if len(shape) == 2 else 0


def _of_targets(observation: Observation, y: Tensor) -> dict[str, Tensor]:
    valid = observation.valid
    counted, ignored = valid.sum(), ~valid
    whole = torch.full_like(counted, len(valid))
    sums = {
        "looks": torch.ones_like(counted),
        "targets": whole,
        "counted": counted,
        "counted_squares": counted * counted,
        "empty_looks": counted == 0,
        "bad_targets": observation.bad_target.sum(),
    }
    if y.ndim == 2:
        several = ((y == 0) | (y == 1)).all(-1) & (y.sum(-1) >= 2)
        return sums | {"several_targets": (several & valid).sum()}
    return sums | {"ignored_pairs": (ignored[1:] & ignored[:-1]).sum()}


def _of_rows(observation: Observation) -> dict[str, Tensor]:
    """How many of a few rows are probabilities, log-probabilities or neither, and whether all are the same."""
    few = observation.spread(max(FEWEST_ROWS, min(MOST_ROWS, MOST_LOGITS // observation.num_classes)))
    logits, y = few.logits, few.targets
    assert y is not None
    half = logits.dtype in HALF_TYPES
    z = upcast(logits)
    partition, total, low = z.logsumexp(-1), z.sum(-1), z.amin(-1)
    finite = partition.isfinite()
    probabilities = (low >= 0) & ((total - 1).abs() <= (HALF_TOTAL if half else TOTAL))
    alike = (z == z[:1]).all() & (y != y[:1]).any() & (len(z) >= FEWEST_ROWS)
    absent = (z == -torch.inf).any(-1) & few.valid
    return {
        "rows": finite.sum(),
        "probability_rows": (finite & probabilities).sum(),
        "log_probability_rows": (finite & (partition.abs() <= (HALF_PARTITION if half else PARTITION))).sum(),
        "unnormalised_rows": (finite & (partition.abs() > UNNORMALISED)).sum(),
        "log_partition": partition.where(finite, 0).to(accumulator_dtype(z.device)).sum(),
        "absent_rows": (finite & absent).sum(),
        "constant_looks": alike,
    }


def _of_values(observation: Observation) -> dict[str, Tensor]:
    """Where independent yes-or-no logits lie about the interval from 0 to 1."""
    few = observation.spread(MOST_VALUES)
    z, y, counted = upcast(few.logits).reshape(-1), few.targets, few.valid
    assert y is not None
    return {
        "values": counted.sum(),
        "value_total": z.where(counted, 0).sum(),
        "outside": (counted & ~((z > 0) & (z <= 1))).sum(),
        "near_zero": (counted & (z > 0) & (z <= NEAR)).sum(),
        "near_one": (counted & (z >= 1 - NEAR) & (z <= 1)).sum(),
        "yes": y.to(z.dtype).where(counted, 0).sum(),
    }


def _of_loss(result: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """The loss of a batch, once for each batch and once for each row of it that counted."""
    loss = result.to(accumulator_dtype(result.device)).mean()
    good = loss.isfinite() & (counted > 0)
    return {
        "loss": loss.where(good, 0),
        "row_loss": (loss * counted).where(good, 0),
        "loss_looks": good,
        "loss_rows": counted.where(good, 0),
        "infinite_looks": loss == torch.inf,
    }


def _range(observation: Observation, y: Tensor) -> dict[str, Tensor]:
    """The largest target that is not one, and the smallest with its sign turned; ``-inf`` where there is none."""
    bad = observation.bad_target
    bad = bad if y.ndim == 1 else torch.zeros_like(bad)
    numbers = upcast(y if y.ndim == 1 else y[:, 0])
    return {
        "bad_target": numbers.where(bad, -torch.inf).amax(),
        "least_bad_target": (-numbers).where(bad, -torch.inf).amax(),
    }


def _as(dtype: torch.dtype, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: number.to(dtype) for name, number in numbers.items()}
