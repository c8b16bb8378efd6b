"""Attention logits, head by head: how large they are at most, and how spread their softmax is."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype, full_precision, upcast
from logitwatch.functional.uncertainty import softmax_entropy

__all__ = [
    "HeadStatistics",
    "attention_entropy",
    "attention_logit_bound",
    "attention_logits",
    "head_statistics",
    "visible_keys",
]

# A key whose additive mask is this far, in nats, below the largest of its row is hidden: masks of -1e4, -1e9 and of the
# least number of a type are in use beside -inf, and biases by distance are smaller.
HIDDEN = 5_000.0
# The square of a smaller number may be 0 in float32.
UNDERFLOWS = 2e-19


class HeadStatistics(NamedTuple):
    """What some query rows say of each head, ``[heads]`` each: ``rows = counted + nonfinite`` and those left out.

    Left out are rows that see one key or none: their softmax has nowhere to spread.
    """

    rows: Tensor  # int64, looked at
    counted: Tensor  # int64, with an entropy
    nonfinite: Tensor  # int64, with a NaN or an infinite logit of a visible key
    entropy: Tensor  # float64, sum of the normalised entropy of the rows that counted
    max_logit: Tensor  # float32 or wider, largest |logit| of a finite row; -inf where there is none
    bound: Tensor  # float32 or wider, what no |logit| of the call exceeds; -inf where it is not known

    def merge(self, other: HeadStatistics) -> HeadStatistics:
        """Those of the rows of both, of one layer."""
        sums = (a + b for a, b in zip(self[:4], other[:4], strict=True))
        return HeadStatistics(*sums, *(torch.maximum(a, b) for a, b in zip(self[4:], other[4:], strict=True)))


def attention_logits(queries: Tensor, keys: Tensor, *, scale: float | None = None) -> Tensor:
    r"""Inner products of queries and keys, scaled: what the softmax of attention is taken of, before any mask.

    .. math:: z_{ij} = s \, \langle q_i, k_j \rangle, \qquad s = 1 / \sqrt{d}

    Half precision is lifted before it is multiplied, and autocast is left alone, so the logits are those of the
    numbers, not those of a kernel that rounds.

    Args:
        queries: ``[..., heads, rows, d]``.
        keys: ``[..., key_heads, keys, d]``, where ``heads`` is a multiple of ``key_heads``: each is shared by as many
            neighbouring query heads.
        scale: The factor; by default ``d ** -0.5``.

    Returns:
        ``[..., heads, rows, keys]``, float32 or wider.

    Raises:
        ValueError: If the heads cannot be shared.

    References:
        Vaswani et al., "Attention Is All You Need", 2017. Ainslie et al., "GQA", 2023, https://arxiv.org/abs/2305.13245

    Examples:
        >>> q, k = torch.tensor([[[2.0, 0.0]], [[0.0, 4.0]]]), torch.tensor([[[1.0, 1.0], [3.0, 0.5]]])
        >>> attention_logits(q, k, scale=1.0).tolist()  # two heads share one key head
        [[[2.0, 6.0]], [[4.0, 2.0]]]
    """
    heads, rows, size = queries.shape[-3:]
    shared, count = keys.shape[-3], keys.shape[-2]
    if shared == 0 or heads % shared:
        raise ValueError(f"heads must be a multiple of key heads, got {heads} and {shared}")
    q, k = upcast(queries), upcast(keys)
    with full_precision(q.device):
        grouped = (q * _scale(size, scale)).reshape(*q.shape[:-3], shared, heads // shared * rows, size)
        return (grouped @ k.transpose(-1, -2)).reshape(*q.shape[:-3], heads, rows, count)


def visible_keys(logits: Tensor, *masks: Tensor, causal: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Which keys a query row sees, and what is added to its logits.

    Args:
        logits: ``[..., rows, keys]``, for shape and device.
        masks: Each broadcasts to the logits: truth values, True where a key is seen, or numbers to be added. A number
            that is far below the largest of its row hides a key as ``-inf`` does.
        causal: Position of each query row ``[rows]``, where it sees the keys up to that position only.

    Returns:
        Truth values and numbers, which broadcast to the logits; None for numbers where nothing is added.

    Examples:
        >>> z = torch.zeros(2, 3)
        >>> visible_keys(z, causal=torch.tensor([0, 2]))[0].tolist()
        [[True, False, False], [True, True, True]]
        >>> visible_keys(z, torch.tensor([0.0, -1e9, -2.0]))[0].tolist()
        [[True, False, True]]
    """
    positions = torch.arange(logits.shape[-1], device=logits.device).unsqueeze(0)
    visible = positions >= 0 if causal is None else positions <= causal.unsqueeze(-1)
    bias: Tensor | None = None
    for mask in masks:
        if mask.dtype is torch.bool:
            visible = visible & mask
        else:
            bias = upcast(mask) if bias is None else bias + upcast(mask)
    if bias is not None:
        bias = bias.where(visible, -torch.inf)
        visible = visible & (bias > bias.amax(-1, keepdim=True) - HIDDEN)
    return visible, bias


def attention_entropy(logits: Tensor, *, visible: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    r"""Entropy of the softmax of each row over that of a uniform one: 1 looks everywhere alike, 0 at one key.

    .. math:: h_i = \frac{H(\mathrm{softmax}(z_i + b_i))}{\log n_i}

    with :math:`n_i` the number of keys that row :math:`i` sees; it is what makes early and late rows of a causal mask
    comparable.

    Args:
        logits: ``[..., rows, keys]``.
        visible: Which keys are seen, broadcasts to ``logits``; a logit of ``-inf`` is not seen either.
        bias: What is added to the logits, broadcasts to them.

    Returns:
        A fraction in ``[0, 1]``, ``[..., rows]``, float32 or wider; NaN for a row that sees fewer than two keys or has
        a NaN or an infinite logit among those it sees.

    References:
        Zhai et al., "Stabilizing Transformer Training by Preventing Attention Entropy Collapse", 2023,
        https://arxiv.org/abs/2303.06296

    Examples:
        >>> attention_entropy(torch.tensor([[3.0, 3.0, 3.0, float("-inf")], [0.0, 500.0, 0.0, 0.0]]))
        tensor([1., 0.])
        >>> attention_entropy(torch.zeros(1, 2), visible=torch.tensor([True, False]))
        tensor([nan])
    """
    z = upcast(logits)
    seen = z != -torch.inf
    if visible is not None:
        seen = seen & visible
    count = seen.sum(-1)
    z = z if bias is None else z + bias
    entropy = softmax_entropy(z.masked_fill(~seen, -torch.inf)) / count.to(z.dtype).log()
    return entropy.clamp(0, 1).masked_fill(count < 2, torch.nan)


def attention_logit_bound(queries: Tensor, keys: Tensor, *, scale: float | None = None) -> Tensor:
    r"""What no |logit| of a head exceeds, whatever the mask, by Cauchy and Schwarz.

    .. math:: \max_{ij} |z_{ij}| \le s \, \max_i \|q_i\| \, \max_j \|k_j\|

    It costs one pass over queries and keys, where the largest logit itself costs all of them. It is rounded up, so it
    holds for logits in float32 too.

    Args:
        queries: ``[batch, heads, rows, d]``.
        keys: ``[batch, key_heads, keys, d]``.
        scale: See `attention_logits`.

    Returns:
        ``[heads]``, float32 or wider, over the whole batch; ``inf`` where there is a NaN or an infinity, 0 without
        rows.

    Examples:
        >>> q, k = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.0, 2.0], [1.0, 0.0]]]])
        >>> round(attention_logit_bound(q, k, scale=1.0).item(), 3), attention_logits(q, k, scale=1.0).max().item()
        (10.0, 8.0)
    """
    size = queries.shape[-1]
    q, k = _longest(queries), _longest(keys)
    k = k.repeat_interleave(len(q) // max(1, len(k)), output_size=len(q))
    room = 1 + (2 * size + 8) * torch.finfo(torch.float32).eps  # rounding of the two norms and of the inner product
    bound = q * k * (abs(_scale(size, scale)) * room)
    return bound.where(bound.isfinite(), torch.inf)


def head_statistics(
    logits: Tensor, *, visible: Tensor | None = None, bias: Tensor | None = None, bound: Tensor | None = None
) -> HeadStatistics:
    """Size and spread of the logits of each head, over all rows.

    Args:
        logits: ``[batch, heads, rows, keys]``, as `attention_logits` gives them, of one key or more.
        visible, bias: See `attention_entropy`. The size is that of the logits of keys that are seen, without the bias.
        bound: Of each head, ``[heads]``, where it is known.

    Examples:
        >>> seen = head_statistics(torch.tensor([[[[3.0, -4.0], [0.0, float("nan")]]]]))
        >>> seen.rows.item(), seen.counted.item(), seen.nonfinite.item(), seen.max_logit.item()
        (2, 1, 1, 4.0)
    """
    wide, (batch, heads, rows, _) = accumulator_dtype(logits.device), logits.shape
    z = upcast(logits)
    seen = torch.ones_like(z, dtype=torch.bool) if visible is None else visible
    size = z.abs().where(seen, 0).amax(-1)
    finite, any_key = size.isfinite(), seen.any(-1)
    entropy = attention_entropy(z, visible=seen, bias=bias)
    counted = finite & entropy.isfinite()
    largest = size.where(finite & any_key, -torch.inf)
    nothing = torch.full((heads,), -torch.inf, dtype=z.dtype, device=z.device)
    return HeadStatistics(
        rows=torch.full((heads,), batch * rows, dtype=torch.int64, device=z.device),
        counted=counted.sum((0, 2)),
        nonfinite=(~finite).sum((0, 2)),
        entropy=entropy.where(counted, 0).to(wide).sum((0, 2)),
        max_logit=largest.amax((0, 2)) if batch * rows else nothing,
        bound=nothing if bound is None else bound,
    )


def _scale(size: int, scale: float | None) -> float:
    return 1 / math.sqrt(max(1, size)) if scale is None else scale


def _longest(vectors: Tensor) -> Tensor:
    """The largest Euclidean norm of each head, ``[heads]``; half precision is lifted as it is read."""
    heads, size = vectors.shape[1], vectors.shape[-1]
    wide = torch.promote_types(vectors.dtype, torch.float32)
    if vectors.numel() == 0:
        return torch.zeros(heads, dtype=wide, device=vectors.device)
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, dtype=wide)
    return norms.amax((0, 2)) + UNDERFLOWS * math.sqrt(size)
