"""Every per-row quantity of the monitors from one pass over the logits, in chunks that stay in the cache."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from logitwatch.functional.numerics import (
    UNDERFLOW,
    accumulator_dtype,
    chunk_elements,
    full_precision,
    maybe_absent,
    upcast,
)

__all__ = [
    "CalibrationRows",
    "RowStatistics",
    "binary_row_statistics",
    "calibration_rows",
    "row_statistics",
    "target_logit",
    "top_two",
]

# Below this width two calls of max over the whole row are cheaper than maxima of blocks.
BLOCK = 64
WIDE = 512

Rows = TypeVar("Rows", "RowStatistics", "CalibrationRows")


class RowStatistics(NamedTuple):
    """Per-row quantities, each ``[rows]`` and float32 unless said otherwise.

    They are float64 for float64 logits, and on a CPU where squares of float32 logits overflow, beyond about ``1e19``.

    A row is *finite* when it has a finite maximum: no NaN, no ``+inf``, and at least one present class. In other rows
    every floating quantity but ``max_logit`` and ``min_logit`` is NaN or meaningless. Quantities that need a target are
    NaN (``correct`` is False) where there is none.
    """

    max_logit: Tensor
    min_logit: Tensor  # over present classes, those above -inf
    mean_logit: Tensor  # over present classes
    squares: Tensor  # sum of squared deviations of the present classes from their mean
    classes: Tensor  # number of present classes
    log_partition: Tensor
    entropy: Tensor  # nats
    confidence: Tensor
    margin: Tensor  # of the largest over the second largest, nats; inf where one class is present
    collision: Tensor  # sum of squared probabilities
    nll: Tensor  # nats
    target_confidence: Tensor  # probability of the target; for soft targets sum_k q_k p_k
    target_square: Tensor  # sum of squared target probabilities, 1 for an index
    correct: Tensor  # bool
    prediction: Tensor  # int64, the first largest class

    @property
    def finite(self) -> Tensor:
        """Rows with a finite maximum, bool ``[rows]``."""
        return self.max_logit.isfinite()

    @property
    def brier(self) -> Tensor:
        """Brier score of each row, in ``[0, 2]``."""
        return self.collision - 2 * self.target_confidence + self.target_square

    @property
    def gradient_norm(self) -> Tensor:
        r"""Norm of the gradient of the cross-entropy on each row of logits, at most 1.42: the root of `brier`.

        .. math:: \|p - y\|^2 = (1 - p_y)^2 + \sum_{k \ne y} p_k^2

        Of one target the two parts are taken apart, as the Brier score of a row that is all but certain cancels to
        noise. So from float32 the norm is right to 0.1 % above 0.01, and below that within a factor of 1.5 or to
        ``5e-7``, whichever is more.
        """
        missed = -torch.expm1(-self.nll)
        others = self.collision - self.target_confidence.square()
        # What is left of the probability may lie on one class, or be spread over all the others.
        spread = missed.square() / (self.classes - 1).clamp(min=1)
        others = torch.minimum(torch.maximum(others, spread), missed.square())
        single = (missed.square() + others).sqrt()
        return torch.where(self.target_square == 1, single, self.brier.clamp(min=0).sqrt())

    @property
    def norm(self) -> Tensor:
        """Euclidean norm of the present logits, float64 so that large offsets neither overflow nor cancel."""
        wide = accumulator_dtype(self.squares.device)
        return (self.squares + self.classes * self.mean_logit.to(wide).square()).sqrt()


class CalibrationRows(NamedTuple):
    """The quantities of `RowStatistics` that calibration is about, each ``[rows]``."""

    confidence: Tensor
    correct: Tensor  # bool
    nll: Tensor  # nats
    brier: Tensor


def row_statistics(logits: Tensor, targets: Tensor | None = None) -> RowStatistics:
    r"""All of `RowStatistics` from one chunked pass; nothing the size of ``logits`` is allocated.

    With :math:`c = z - \max z`, :math:`e = \exp c`, :math:`s = \sum e`: confidence :math:`1/s`, entropy
    :math:`\log s - \langle e, c\rangle / s`, log-partition :math:`\max z + \log s`, collision
    :math:`\langle e, e\rangle / s^2`, NLL :math:`\log s - c_y`.

    Args:
        logits: ``[rows, classes]``, any real type; lifted to float32 or wider chunk by chunk.
        targets: Class indices ``[rows]``, probabilities ``[rows, classes]``, or None. An index outside
            ``[0, classes)`` gives a row without a target.

    Returns:
        The quantities of each row, on the device of ``logits``.

    Raises:
        ValueError: If ``logits`` is not two-dimensional or has no class.

    Examples:
        >>> rows = row_statistics(torch.tensor([[2.0, 0.0], [0.0, float("-inf")]]), torch.tensor([1, 0]))
        >>> rows.entropy, rows.nll
        (tensor([0.3653, 0.0000]), tensor([2.1269, 0.0000]))
        >>> rows.margin.tolist(), rows.correct.tolist()
        ([2.0, inf], [False, True])
    """
    return _in_chunks(_chunk_statistics, RowStatistics, logits, targets)


def calibration_rows(logits: Tensor, targets: Tensor) -> CalibrationRows:
    """What `row_statistics` gives of confidence, correctness, NLL and Brier score, bit for bit, and no more.

    Beyond about ``1e19``, where that goes on in float64, the last bit may differ.

    Args:
        logits: As for `row_statistics`.
        targets: As for `row_statistics`.

    Examples:
        >>> rows = calibration_rows(torch.tensor([[2.0, 0.0], [0.0, float("-inf")]]), torch.tensor([1, 0]))
        >>> rows.confidence, rows.correct.tolist(), rows.nll
        (tensor([0.8808, 1.0000]), [False, True], tensor([2.1269, 0.0000]))
    """
    return _in_chunks(_chunk_calibration, CalibrationRows, logits, targets)


def binary_row_statistics(logits: Tensor, targets: Tensor | None = None) -> RowStatistics:
    r"""`RowStatistics` of independent yes-or-no logits: each ``z`` is one row, a choice between 0 and ``z``.

    .. math:: p = \sigma(z), \quad \log Z = \log(1 + e^z), \quad \mathrm{nll} = \log Z - y z

    Range, mean and norm are of ``z`` itself, not of the implied zero.

    Args:
        logits: ``[rows]``, any real type.
        targets: Probabilities of yes ``[rows]``, usually 0 or 1, or None.

    Returns:
        The quantities of each row; ``prediction`` is 1 for ``z > 0``.

    Examples:
        >>> rows = binary_row_statistics(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 1.0]))
        >>> rows.confidence, rows.correct.tolist()
        (tensor([0.8808, 0.7311]), [True, False])
    """
    z = upcast(logits)
    pair = torch.stack((torch.zeros_like(z), z), dim=-1)
    soft = None
    if targets is not None:
        yes = targets.to(z.dtype)
        soft = torch.stack((1 - yes, yes), dim=-1)
    rows = row_statistics(pair, soft)
    finite = torch.where(z.isfinite(), z, torch.nan)
    return rows._replace(
        max_logit=z, min_logit=finite, mean_logit=finite, squares=torch.zeros_like(z), classes=torch.ones_like(z)
    )


def target_logit(logits: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logit of the target, NaN where there is none, and where there is one.

    Args:
        logits: ``[rows, classes]``, float32 or float64.
        targets: As for `row_statistics`; probabilities give the mean logit under them, to which an absent class of
            probability 0 adds nothing.

    Examples:
        >>> target_logit(torch.tensor([[2.0, -1.0], [2.0, -1.0]]), torch.tensor([1, 2]))
        (tensor([-1., nan]), tensor([ True, False]))
    """
    if targets is None:
        nothing = torch.full_like(logits[:, 0], torch.nan)
        return nothing, torch.zeros_like(nothing, dtype=torch.bool)
    if targets.ndim == 2:
        q = targets.to(logits.dtype)
        return torch.where(q == 0, 0.0, q * logits).sum(-1), torch.ones_like(logits[:, 0], dtype=torch.bool)
    known = (targets >= 0) & (targets < logits.shape[1])
    index = torch.where(known, targets, 0).long().unsqueeze(-1)
    return logits.gather(-1, index).squeeze(-1).masked_fill(~known, torch.nan), known


def top_two(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest and second largest value and the first index of the largest; NaN wins, as in `torch.amax`.

    Args:
        z: ``[rows, classes]``, float32 or float64.

    Examples:
        >>> top_two(torch.tensor([[2.0, 5.0, 5.0], [1.0, 0.0, -1.0]]))
        (tensor([5., 1.]), tensor([5., 0.]), tensor([1, 0]))
    """
    if z.shape[1] < WIDE:
        top, index = z.max(-1)
        others = z.scatter(-1, index.unsqueeze(-1), -torch.inf)
        return top, others.amax(-1), index
    top, maxima, block, position, inside = _by_blocks(z)
    prediction = position.gather(-1, inside.argmax(-1, keepdim=True))
    inside = inside.masked_fill(position == prediction, -torch.inf)
    others = maxima.scatter(-1, block, -torch.inf)
    return top, torch.maximum(inside.amax(-1), others.amax(-1)), prediction.squeeze(-1)


def _in_chunks(
    quantities: Callable[[Tensor, Tensor | None], Rows],
    kind: Callable[..., Rows],
    logits: Tensor,
    targets: Tensor | None,
) -> Rows:
    """Quantities of each row, from chunks lifted to float32 or wider."""
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must be [rows, classes] with at least one class, got {tuple(logits.shape)}")
    step = max(1, chunk_elements(logits.device) // logits.shape[1])
    with full_precision(logits.device):
        chunks = [
            # Contiguous, for how torch adds up depends on how numbers lie, and by that the last bit.
            quantities(upcast(logits[i : i + step]).contiguous(), None if targets is None else targets[i : i + step])
            for i in range(0, max(1, len(logits)), step)
        ]
    return chunks[0] if len(chunks) == 1 else kind(*map(torch.cat, zip(*chunks, strict=True)))


def _chunk_statistics(z: Tensor, targets: Tensor | None) -> RowStatistics:
    """The pass itself, over a chunk ``[rows, classes]`` of float32 or float64."""
    top, second, prediction = top_two(z)
    low = z.amin(-1)
    count = torch.full_like(top, z.shape[1])
    centred = z - top.unsqueeze(-1)
    if maybe_absent(low):
        absent = z == -torch.inf
        low = z.masked_fill(absent, torch.inf).amin(-1)
        count = count - absent.sum(-1)
        present = centred.masked_fill(absent, 0.0)
        total, squares = present.sum(-1), torch.linalg.vecdot(present, present)
    else:
        total, squares = centred.sum(-1), torch.linalg.vecdot(centred, centred)
    if z.dtype == torch.float32 and _overflowed(top, squares):
        return _chunk_statistics(z.double(), targets)
    c_target, known = target_logit(centred, targets)
    centred.clamp_(min=UNDERFLOW[z.dtype])
    e = centred.exp()
    s = e.sum(-1)
    log_s = s.log()
    mean = total / count
    nll, target_confidence, target_square, correct = _hit(targets, c_target, known, prediction, e, s)
    return RowStatistics(
        max_logit=top,
        min_logit=low,
        mean_logit=top + mean,
        squares=(squares - total * mean).clamp_(min=0).nan_to_num_(nan=torch.inf, posinf=torch.inf),
        classes=count,
        log_partition=top + log_s,
        entropy=log_s - torch.linalg.vecdot(e, centred) / s,
        confidence=s.reciprocal(),
        margin=top - second,
        collision=torch.linalg.vecdot(e, e) / s.square(),
        nll=nll,
        target_confidence=target_confidence,
        target_square=target_square,
        correct=correct,
        prediction=prediction,
    )


def _chunk_calibration(z: Tensor, targets: Tensor | None) -> CalibrationRows:
    """As `_chunk_statistics`, in half as many passes."""
    top, prediction = _top(z)
    centred = z - top.unsqueeze(-1)
    c_target, known = target_logit(centred, targets)
    e = centred.clamp_(min=UNDERFLOW[z.dtype]).exp_()
    s = e.sum(-1)
    nll, target_confidence, target_square, correct = _hit(targets, c_target, known, prediction, e, s)
    brier = torch.linalg.vecdot(e, e) / s.square() - 2 * target_confidence + target_square
    return CalibrationRows(s.reciprocal(), correct, nll, brier)


def _hit(
    targets: Tensor | None, c_target: Tensor, known: Tensor, prediction: Tensor, e: Tensor, s: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """NLL, probability of the target, sum of its squared probabilities, and whether it is predicted."""
    if targets is None or targets.ndim == 1:
        nll, target_square = s.log() - c_target, torch.where(known, torch.ones_like(s), torch.nan)
        return nll, (-nll).exp(), target_square, known if targets is None else known & (prediction == targets)
    q = targets.to(e.dtype)
    nll = q.sum(-1) * s.log() - c_target  # rounded to half precision, q does not add up to 1
    return nll, torch.linalg.vecdot(e, q) / s, torch.linalg.vecdot(q, q), q.argmax(-1) == prediction


def _overflowed(top: Tensor, squares: Tensor) -> bool:
    """Whether a row of finite logits has a square that is not; on an accelerator nobody looks, and it is infinite."""
    return top.device.type == "cpu" and bool((top.isfinite() & ~squares.isfinite()).numpy().any())


def _top(z: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value and its first index; NaN wins, as in `torch.amax`."""
    if z.shape[1] < WIDE:
        top, index = z.max(-1)
        return top, index
    top, _, _, position, inside = _by_blocks(z)
    return top, position.gather(-1, inside.argmax(-1, keepdim=True)).squeeze(-1)


def _by_blocks(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Largest value of wide rows, that of each block, which block has it first, and the classes and values of that one.

    The largest block maximum names the block that holds the first maximum, so only that block is searched. ``max(dim)``
    and ``topk`` over a whole wide row cost ten to twenty times as much as ``amax``.
    """
    rows, classes = z.shape
    whole = classes - classes % BLOCK
    maxima = z[:, :whole].reshape(rows, -1, BLOCK).amax(-1)
    if whole < classes:
        maxima = torch.cat((maxima, z[:, whole:].amax(-1, keepdim=True)), dim=-1)
    top, block = maxima.max(-1, keepdim=True)
    # The last block may be short: positions past the end repeat the last class, which cannot come first.
    position = (block * BLOCK + torch.arange(BLOCK, device=z.device)).clamp_(max=classes - 1)
    return top.squeeze(-1), maxima, block, position, z.gather(-1, position)
