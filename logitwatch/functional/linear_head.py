"""A linear layer and what it made of some rows: how large its logits are, and by what."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype, full_precision, upcast

__all__ = ["LinearRows", "linear_rows"]

# Rows that are measured: as many as have this many logits or features, within these limits.
ELEMENTS, FEWEST, MOST = 1_048_576, 8, 256
# Rows and classes that the outputs are held against; to agree on so many is no accident.
PROOF_ROWS, PROOF_CLASSES = 4, 64


class LinearRows(NamedTuple):
    """What `linear_rows` says, float32 or wider, on the device of the layer."""

    head: Tensor  # root mean square norm of a row of the weight, 0-dimensional
    features: Tensor  # norm of the features of each row measured
    logits: Tensor  # root mean square of the logits of each row measured, without the bias
    mismatch: Tensor  # of W h + b with the logits, relative to the largest of these, 0-dimensional


def linear_rows(weight: Tensor, bias: Tensor | None, features: Tensor, outputs: Tensor, logits: Tensor) -> LinearRows:
    r"""How large the logits of a linear layer are, as a product of three.

    .. math:: \frac{\|W h\|}{\sqrt C} = \frac{\|W\|_F}{\sqrt C} \cdot \|h\| \cdot \frac{\|W h\|}{\|W\|_F \|h\|}

    The last factor, the alignment, is at most 1: the features lie where the weight is largest. Of many rows some are
    measured, spread evenly and the same ones each time. No number is read back from the device.

    Args:
        weight: ``[classes, features]``.
        bias: ``[classes]`` or None.
        features: What the layer was given, ``[rows, features]``.
        outputs: What it gave, ``[rows, classes]``.
        logits: Rows that are to be found among the outputs, ``[some, classes]``; of them four are looked for, in any
            order. What is not finite is passed over.

    Examples:
        >>> h, weight = torch.tensor([[3.0, 4.0]]), torch.eye(2)
        >>> rows = linear_rows(weight, None, h, h @ weight.T, h @ weight.T)
        >>> rows.head, rows.features, rows.logits, rows.mismatch
        (tensor(1.), tensor([5.]), tensor([3.5355]), tensor(0.))
        >>> linear_rows(weight, None, h, h, -h).mismatch
        tensor(2.)
    """
    with full_precision(weight.device):
        root = math.sqrt(len(weight))
        measured = _spread(len(outputs), min(MOST, max(FEWEST, ELEMENTS // max(weight.shape))), outputs.device)
        z = upcast(outputs[measured])
        if bias is not None:
            z = z - upcast(bias)
        # Row by row first: one float32 sum over a large weight would lose digits.
        head = torch.linalg.vector_norm(weight, dim=1, dtype=torch.promote_types(weight.dtype, torch.float32))
        return LinearRows(
            torch.linalg.vector_norm(head) / root,
            torch.linalg.vector_norm(upcast(features[measured]), dim=1),
            torch.linalg.vector_norm(z, dim=1) / root,
            _mismatch(weight, bias, features, outputs, logits),
        )


def _spread(count: int, most: int, device: torch.device) -> Tensor:
    """Indices of at most so many of ``count`` rows; by the golden ratio, as no period of the rows can follow it."""
    if count <= most:
        return torch.arange(count, device=device)
    steps = torch.arange(most, dtype=accumulator_dtype(device), device=device) * ((math.sqrt(5) - 1) / 2)
    return ((steps % 1) * count).long().clamp(max=count - 1)


def _mismatch(weight: Tensor, bias: Tensor | None, features: Tensor, outputs: Tensor, logits: Tensor) -> Tensor:
    """Largest difference of W h + b and the logits, for the rows whose outputs are nearest to them."""
    columns = slice(None, None, max(1, len(weight) // PROOF_CLASSES))
    z = upcast(logits[:: max(1, len(logits) // PROOF_ROWS), columns][:PROOF_ROWS])
    if not z.numel() or not len(outputs):
        return upcast(outputs.new_zeros(()))
    seen = upcast(outputs[:, columns])
    row = torch.stack([_gaps(seen, some).amax(-1).argmin() for some in z])
    computed = upcast(features[row]) @ upcast(weight[columns]).T
    if bias is not None:
        computed = computed + upcast(bias[columns])
    largest = torch.where(z.isfinite(), z.abs(), 0.0).amax()
    return _gaps(computed, z).amax() / largest.clamp(min=torch.finfo(z.dtype).tiny)


def _gaps(x: Tensor, z: Tensor) -> Tensor:
    """Distances to the finite ones of some logits; infinite where there is no number."""
    return torch.where(z.isfinite(), (x - z).abs(), 0.0).nan_to_num(nan=torch.inf, posinf=torch.inf)
