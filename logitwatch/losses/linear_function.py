"""The autograd function behind the linear cross-entropy, and what it makes of the options."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.row_statistics import RowStatistics
from logitwatch.losses.inputs import check_fraction, check_reduction
from logitwatch.losses.linear_inputs import absent_classes, check_linear, checked_targets, product_dtype
from logitwatch.losses.linear_pass import HeadGradients, LinearHead, PassRows, RowPull, linear_pass
from logitwatch.losses.linear_shards import HeadShard, own_part
from logitwatch.losses.logit_maps import LogitMap, LogitNorm, SoftCap
from logitwatch.losses.logit_norm import EPS
from logitwatch.losses.sharded_pass import sharded_pass

__all__ = ["LinearOptions", "linear_loss"]


class LinearOptions(NamedTuple):
    """What the loss is, apart from the tensors; see `linear_cross_entropy`.

    Examples:
        >>> LinearOptions(z_loss=-1.0).checked()
        Traceback (most recent call last):
            ...
        ValueError: z_loss must be >= 0, got -1.0
    """

    reduction: str = "mean"
    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    soft_cap: float | None = None
    logit_norm: float | None = None

    def checked(self) -> "LinearOptions":
        """The same options.

        Raises:
            ValueError: If one is out of its range.
        """
        check_reduction(self.reduction)
        check_fraction("label_smoothing", self.label_smoothing)
        if not 0 <= self.z_loss < math.inf:
            raise ValueError(f"z_loss must be >= 0, got {self.z_loss}")
        for name in ("soft_cap", "logit_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be > 0, got {value}")
        if self.soft_cap is not None and self.logit_norm is not None:
            raise ValueError("soft_cap and logit_norm cannot both be given: normalised logits are bounded already")
        return self

    def map(self) -> LogitMap | None:
        """What stands between logits and softmax."""
        if self.soft_cap is not None:
            return SoftCap(self.soft_cap)
        return None if self.logit_norm is None else LogitNorm(self.logit_norm, EPS)


class _Part(NamedTuple):
    """What a pass needs beside the tensors that have a gradient."""

    head: LinearHead  # without hidden states, weight and bias
    pull: RowPull
    dtype: torch.dtype  # of the products
    reduce: bool
    lent: dict[str, Any] | None
    shard: HeadShard | None  # which classes these are, of a head that is split over ranks

    def run(
        self, head: LinearHead, pull: RowPull | None, needs: tuple[bool, bool, bool]
    ) -> tuple[PassRows, HeadGradients, RowStatistics | None]:
        """See `linear_pass`; the statistics where somebody asked."""
        lend = self.lent is not None
        if self.shard is None:
            return linear_pass(head, pull, needs, lend=lend)
        return sharded_pass(head, self.shard, pull, needs, lend=lend)


def linear_loss(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None,
    weight: Tensor | None,
    options: LinearOptions,
    *,
    lent: dict[str, Any] | None = None,
) -> Tensor:
    """See `linear_cross_entropy`.

    Args:
        input, linear_weight, target, linear_bias, weight: The tensors.
        options: What the loss is.
        lent: Where statistics are left; None where none are asked for.

    Examples:
        >>> linear_loss(torch.ones(1, 1), torch.zeros(2, 1), torch.tensor([0]), None, None, LinearOptions())
        tensor(0.6931)
    """
    dtype = product_dtype(input, linear_weight)
    check_linear(input, linear_weight, target, linear_bias, weight)
    classes = len(linear_weight)
    index, counted = checked_targets(target, classes, options.ignore_index)
    input, linear_weight, linear_bias, shard = own_part(input, linear_weight, linear_bias)
    if shard is not None and options.logit_norm is not None:
        raise ValueError("logit_norm needs all logits of a row at once, and linear_weight is split over ranks")
    wide = torch.promote_types(dtype, torch.float32)
    class_weight = None if weight is None else weight.detach().to(wide)
    absent = absent_classes(linear_bias)
    spread = _spread(linear_weight, class_weight, absent, wide, shard) if options.label_smoothing else None
    nothing, through = input.new_empty(0), options.map()
    part = _Part(
        LinearHead(nothing, nothing, None, absent, index, counted, spread, through),
        _pull(index, counted, class_weight, options, wide),
        dtype,
        options.reduction != "none",
        lent,
        shard,
    )
    hidden, keep = input.reshape(-1, input.shape[-1]), torch.is_grad_enabled()
    value: Tensor = _LinearCrossEntropy.apply(hidden, linear_weight, linear_bias, part, keep)  # type: ignore[no-untyped-call]
    if lent is not None:
        shape = (*input.shape[:-1], classes)
        lent["logits"] = torch.empty(shape, dtype=dtype, device="meta")
        if shard is None:
            lent["logits_of"] = _logits_of(hidden, linear_weight, linear_bias, through, dtype)
        else:
            lent["counted"] = shard.counted
    return value if part.reduce else value.view(target.shape)


class _LinearCrossEntropy(torch.autograd.Function):
    """The loss of all rows, and the gradients of the head and the hidden states by the same pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, part: _Part, keep: bool) -> Tensor:
        needs = ctx.needs_input_grad[:3]
        now = keep and part.reduce and any(needs)
        head = _with_tensors(part, hidden, weight, bias)
        rows, gradients, statistics = part.run(head, part.pull if now else None, needs)
        ctx.save_for_backward(hidden, weight, bias)
        ctx.part, ctx.gradients = part._replace(lent=None), gradients if now else None
        losses = _losses(rows, part)
        if part.lent is not None and statistics is not None:
            part.lent.update(_lent(losses, rows, statistics, part))
        total = sum(losses.values())
        assert isinstance(total, Tensor)
        return total.sum() if part.reduce else total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "linear cross-entropy keeps its gradients, not a graph of the logits, so it has no second derivative "
                "(create_graph=True); use torch.nn.functional.cross_entropy of the logits where one is needed"
            )
        tensors = ctx.saved_tensors
        gradients: HeadGradients | None
        # Handed over once and scaled in place: a second use would find them scaled, or added to by an optimizer.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            part: _Part = ctx.part
            head, needs = _with_tensors(part, *tensors), ctx.needs_input_grad[:3]
            _, gradients, _ = part.run(head, part.pull.times(grad), needs)
        elif not (grad.device.type == "cpu" and grad.item() == 1):
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(grad)
        pairs = zip(gradients, tensors, strict=True)
        return *(None if gradient is None else gradient.to(like.dtype) for gradient, like in pairs), None, None


def _with_tensors(part: _Part, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> LinearHead:
    """The head a pass is made over, in the type of the products."""
    wide = torch.promote_types(part.dtype, torch.float32)
    return part.head._replace(
        hidden=hidden.detach().to(part.dtype),
        weight=weight.detach().to(part.dtype),
        bias=None if bias is None else bias.detach().to(wide),
    )


def _losses(rows: PassRows, part: _Part) -> dict[str, Tensor]:
    """The terms of each row; a row without weight adds 0, whatever it is."""
    pull = part.pull
    terms = {"cross_entropy": (pull.target * rows.nll).masked_fill(pull.target == 0, 0.0)}
    if pull.uniform is not None:
        smooth = (pull.uniform * rows.uniform).masked_fill(pull.uniform == 0, 0.0)
        terms["cross_entropy"] = terms["cross_entropy"] + smooth
    if pull.partition is not None:
        penalty = pull.partition * rows.log_partition.square()
        terms["z_loss"] = penalty.masked_fill(pull.partition == 0, 0.0)
    return terms


def _lent(losses: dict[str, Tensor], rows: PassRows, statistics: RowStatistics, part: _Part) -> dict[str, Any]:
    known = {name: getattr(statistics, name) for name in ("max_logit", "log_partition", "entropy", "nll")}
    values = {name: values.sum() if part.reduce else values.mean() for name, values in losses.items()}
    lent = {"terms": values, "rows": known, "row_statistics": statistics}
    if rows.saturated is None:
        return lent
    counted = part.head.counted
    shares = torch.where(counted, rows.saturated / statistics.classes.clamp(min=1), 0.0)
    return {**lent, "numbers": {"soft_cap_saturation": shares.sum() / counted.sum().clamp(min=1)}}


def _logits_of(
    rows: Tensor, weight: Tensor, bias: Tensor | None, through: LogitMap | None, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """How to make the logits of some rows."""
    hidden, head = rows.detach(), weight.detach()

    def logits_of(index: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            z = (hidden[index].to(dtype) @ head.to(dtype).T).to(torch.promote_types(dtype, torch.float32))
            z = z if bias is None else z.add_(bias.detach())
            if through is not None and through.predicts:
                through.apply(z)
            return z

    return logits_of


def _pull(index: Tensor, counted: Tensor, weight: Tensor | None, options: LinearOptions, dtype: torch.dtype) -> RowPull:
    """What each row is multiplied by, so that the sum over rows is the loss."""
    ones = counted.to(dtype)
    target = ones if weight is None else ones * weight[index]
    uniform, partition = ones, ones * options.z_loss
    if options.reduction == "mean":
        total = target.sum()
        total = torch.where(total == 0, 1.0, total)
        target, uniform, partition = target / total, uniform / total, partition / ones.sum().clamp(min=1)
    smoothing = options.label_smoothing
    return RowPull(
        target * (1 - smoothing) if smoothing else target,
        uniform * smoothing if smoothing else None,
        partition if options.z_loss else None,
    )


def _spread(
    linear_weight: Tensor, weight: Tensor | None, absent: Tensor | None, dtype: torch.dtype, shard: HeadShard | None
) -> Tensor:
    """Class weights over the number of present classes, which of a shard is not known; 0 for an absent class."""
    spread = linear_weight.new_ones(len(linear_weight), dtype=dtype)
    if weight is not None:
        spread = spread * (weight if shard is None else shard.of(weight))
    if absent is not None:
        spread = spread.masked_fill(absent, 0.0)
    if shard is not None:
        return spread
    return spread / (len(spread) if absent is None else (~absent).sum())
