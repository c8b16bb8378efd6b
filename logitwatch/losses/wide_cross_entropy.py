"""Cross-entropy over a large vocabulary: loss, gradient and row statistics from one pass over chunks of rows."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import UNDERFLOW
from logitwatch.losses.inputs import maybe_absent

__all__ = ["wide_cross_entropy"]

# Scratch of a chunk, 16 MiB of float32. An eighth of it fits the cache better and is a fifth faster on idle cores, but
# each operation on a chunk waits for every thread: where other processes hold a core, it took six times as long.
CHUNK_ELEMENTS = 1 << 22
# exp2 of a scaled argument takes a third of the time of exp.
LOG2_E = 1 / math.log(2)


def wide_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Cross-entropy with class indices, in nats, and the statistics of each row that fall out of it.

    .. math:: l = w_y \big((1 - \epsilon)(-\log p_y) + \epsilon\, \tfrac{1}{|P|} \sum_{k \in P} (-\log p_k)\big)

    with :math:`P` the present classes of the row. The softmax is written once, into the buffer that becomes the
    gradient; nothing else has the size of ``logits``. The backward pass scales that buffer, and there is no second
    derivative.

    Args:
        logits: ``[..., classes]``, real floating point. Half types are computed in float32.
        targets: Class indices ``[...]``, int64, in range or ``ignore_index``.
        weight: Class weights ``[classes]``, float32 or wider; not together with smoothing.
        ignore_index: The target of a row that does not count.
        reduction: ``mean`` (over the weights of counted rows), ``sum`` or ``none``.
        label_smoothing: Mass spread over the present classes, in ``[0, 1]``.

    Returns:
        The loss, float32 or wider, and detached float32 ``[rows]``: ``max_logit``, ``log_partition``, ``entropy``,
        ``nll`` (NaN for an ignored row).

    Examples:
        >>> logits = torch.tensor([[0.0, 0.0, float("-inf")], [5.0, 0.0, 0.0]])
        >>> loss, rows = wide_cross_entropy(logits, torch.tensor([1, -100]))
        >>> loss, rows["entropy"], rows["nll"]
        (tensor(0.6931), tensor([0.6931, 0.0799]), tensor([0.6931,    nan]))
    """
    counted = targets != ignore_index
    index = torch.where(counted, targets, 0)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    scale = counted.to(dtype) if weight is None else torch.where(counted, weight[index], 0.0)
    if reduction == "mean":
        total = scale.sum()
        scale = scale / torch.where(total == 0, 1.0, total)
    keep = torch.is_grad_enabled() and logits.requires_grad
    loss, top, log_partition, entropy, nll = _WideCrossEntropy.apply(  # type: ignore[no-untyped-call]
        logits, index.flatten(), scale.flatten(), label_smoothing, reduction != "none", keep
    )
    nll = nll.masked_fill(~counted.flatten(), torch.nan)
    rows = {"max_logit": top, "log_partition": log_partition, "entropy": entropy, "nll": nll}
    return loss if loss.ndim == 0 else loss.view(targets.shape), {name: row.float() for name, row in rows.items()}


class _WideCrossEntropy(torch.autograd.Function):
    """The loss of rows times their scales, and its gradient by the same pass."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, index: Tensor, scale: Tensor, label_smoothing: float, reduce: bool, keep: bool
    ) -> tuple[Tensor, ...]:
        # A float16 gradient that already holds 1/N would underflow before a loss scale reaches it.
        kept = torch.float32 if logits.dtype == torch.float16 else logits.dtype
        gradient = logits.new_empty((len(index), logits.shape[-1]), dtype=kept) if keep else None
        top, total, moment, uniform, share = _all_chunks(logits, scale, label_smoothing, gradient)
        log_s = total.log()
        target = logits.gather(-1, index.view(*logits.shape[:-1], 1)).flatten().to(top.dtype) - top
        nll = log_s - target
        losses = nll if label_smoothing == 0 else (1 - label_smoothing) * nll + label_smoothing * (log_s - uniform)
        losses = (scale * losses).masked_fill(scale == 0, 0.0)
        if gradient is not None:
            # p_y - 1 from the NLL: the difference itself would cancel, in bfloat16 to nothing.
            at_target = scale * (torch.expm1(-nll) + label_smoothing - share)
            # Not scatter_, which copies the whole of a bfloat16 tensor.
            gradient[torch.arange(len(index), device=index.device), index] = at_target.to(kept)
            ctx.save_for_backward(gradient)
        ctx.shape, ctx.dtype = logits.shape, logits.dtype
        statistics = (top, top + log_s, log_s - moment / total, nll)
        ctx.mark_non_differentiable(*statistics)
        return (losses.sum() if reduce else losses, *statistics)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "cross-entropy over a large vocabulary keeps its gradient, not its graph, so it has no second "
                "derivative (create_graph=True); use torch.nn.functional.cross_entropy where one is needed"
            )
        (gradient,) = ctx.saved_tensors
        # Looking at the number waits for an accelerator; on a CPU it saves an allocation as large as the logits.
        if grad.device.type == "cpu" and grad.ndim == 0 and gradient.dtype == ctx.dtype and grad.item() == 1:
            scaled = gradient
        else:
            scaled = torch.empty_like(gradient, dtype=ctx.dtype)
            # Two axes, so that the product is taken in float32: a loss scale may not fit into float16.
            torch.mul(gradient, grad.reshape(-1, 1), out=scaled)
        return scaled.view(ctx.shape), None, None, None, None, None


class _Chunk(NamedTuple):
    """Per-row results of a pass, each ``[rows]``."""

    top: Tensor
    total: Tensor  # s, the sum of e = exp(c), c the logits less their maximum
    moment: Tensor  # sum of e * c
    uniform: Tensor  # mean of c over the present classes, 0 without smoothing
    share: Tensor  # smoothing mass of one present class, 0 without smoothing


def _all_chunks(logits: Tensor, scale: Tensor, label_smoothing: float, gradient: Tensor | None) -> _Chunk:
    """The pass over all rows; fills ``gradient`` with that of the loss, except at the target."""
    classes, dtype = logits.shape[-1], scale.dtype
    step = max(1, CHUNK_ELEMENTS // classes)
    centred = logits.new_empty((min(step, len(scale)), classes), dtype=dtype)
    in_place = gradient is not None and gradient.dtype == dtype
    spare = centred if in_place else torch.empty_like(centred)
    results, first = [], 0
    for z in _chunks_of_rows(logits, step):
        rows = slice(first, first + len(z))
        first += len(z)
        e = gradient[rows] if gradient is not None and in_place else spare[: len(z)]
        results.append(_chunk(z, scale[rows], label_smoothing, (centred[: len(z)], e)))
        if gradient is not None and not in_place:
            gradient[rows] = e
    return _Chunk(*map(torch.cat, zip(*results, strict=True)))


def _chunk(z: Tensor, scale: Tensor, label_smoothing: float, scratch: tuple[Tensor, Tensor]) -> _Chunk:
    """One chunk ``[rows, classes]``; leaves its gradient in the second scratch buffer."""
    centred, e = scratch
    if z.dtype != e.dtype:
        z = centred.copy_(z)  # the reductions of half types are slower than this copy
    top = z.amax(-1, keepdim=True)
    torch.sub(z, top, out=centred)
    uniform = share = torch.zeros_like(scale)
    absent = None
    if label_smoothing:
        absent = centred == -torch.inf if maybe_absent(centred) else None
        present = torch.full_like(scale, z.shape[1]) if absent is None else z.shape[1] - absent.sum(-1)
        kept = centred if absent is None else centred.masked_fill(absent, 0.0)
        uniform, share = kept.sum(-1) / present, label_smoothing / present
    centred.clamp_(min=UNDERFLOW[e.dtype])
    torch.mul(centred, LOG2_E, out=e).exp2_()
    total = e.sum(-1)
    moment = centred.mul_(e).sum(-1)
    e.mul_((scale / total).unsqueeze(-1))
    if label_smoothing:
        smoothed = (scale * share).unsqueeze(-1)
        e.sub_(smoothed if absent is None else torch.where(absent, 0.0, smoothed))
    return _Chunk(top.squeeze(-1), total, moment, uniform, share)


def _chunks_of_rows(logits: Tensor, step: int) -> Iterator[Tensor]:
    """Views ``[at most step, classes]`` of ``[..., classes]`` in order, without a copy whatever the strides."""
    if logits.ndim == 2:
        yield from (logits[i : i + step] for i in range(0, max(1, len(logits)), step))
    elif logits.is_contiguous():
        yield from _chunks_of_rows(logits.view(-1, logits.shape[-1]), step)
    else:
        for part in logits.unbind(0):
            yield from _chunks_of_rows(part, step)
