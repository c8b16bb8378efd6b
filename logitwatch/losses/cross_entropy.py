"""Cross-entropy as torch has it, without its infinities, and lending its row statistics where it has them for free."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from logitwatch.functional.numerics import upcast
from logitwatch.losses.base import LogitLoss
from logitwatch.losses.inputs import (
    all_counted,
    along_classes,
    check_fraction,
    check_logits,
    check_reduction,
    class_axis,
    counted_rows,
    lifted_weight,
    may_look,
    maybe_absent,
)
from logitwatch.losses.wide_cross_entropy import wide_cross_entropy

__all__ = ["CrossEntropyLoss", "softmax_cross_entropy"]

# Measured on one thread of a CPU, float32, forward and backward: from 256 rows of this many classes the chunked pass
# takes 0.6 to 0.75 of torch's time; with 16 rows it loses 0.2 ms. A number of classes and not of elements, so that what
# a model can expect (rows lent, no second derivative) hangs on no batch size.
WIDE_CLASSES = 16_384


def softmax_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    dim: int = -1,
) -> Tensor:
    r"""Cross-entropy of softened, weighted targets, in nats.

    .. math:: -\sum_k w_k q'_k \log p_k, \qquad q'_k = (1 - \epsilon)\, q_k + \epsilon / |P| \text{ for } k \in P

    with :math:`P` the present classes, those above ``-inf``: an absent class gets no smoothing mass.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``.
        targets: Class indices, shaped as ``logits`` without ``dim``; or probabilities, shaped as ``logits``.
        weight: Class weights ``[classes]``.
        label_smoothing: Mass spread over the present classes, in ``[0, 1]``.
        dim: The class axis, which the result drops.

    Returns:
        Loss of each example, float32 or wider; ``inf`` where an absent class has target mass.

    References:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016.

    Examples:
        >>> softmax_cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([0.6931])
        >>> softmax_cross_entropy(torch.tensor([[1.0, 0.0, float("-inf")]]), torch.tensor([0]), label_smoothing=0.1)
        tensor([0.3633])
    """
    log_p = torch.log_softmax(upcast(logits), dim)
    w = None if weight is None else along_classes(weight, log_p, dim)
    if targets.shape == logits.shape and targets.is_floating_point():
        # 0 * inf would be NaN in the product and in its gradient.
        safe = log_p.masked_fill((targets == 0) & (log_p == -torch.inf), 0.0)
        hard = 0.0 - (targets * safe if w is None else targets * safe * w).sum(dim)
    else:
        hard = 0.0 - log_p.gather(dim, targets.unsqueeze(dim)).squeeze(dim)
        hard = hard if weight is None else weight[targets] * hard
    if label_smoothing == 0:
        return hard
    absent = log_p == -torch.inf
    safe = log_p.masked_fill(absent, 0.0)
    uniform = (safe if w is None else safe * w).sum(dim) / (~absent).sum(dim)
    return (1 - label_smoothing) * hard - label_smoothing * uniform


class CrossEntropyLoss(LogitLoss):
    r"""Cross-entropy in place of `torch.nn.CrossEntropyLoss`: the same arguments, numbers and gradients, except that

    * where no row counts, the mean is 0 with zero gradient, not NaN;
    * label smoothing spreads its mass over the present classes; a logit of ``-inf`` does not make it infinite;
    * a soft target of 0 on a logit of ``-inf`` adds 0, not NaN;
    * half-precision logits are computed in float32, and so is the loss; the gradient has the type of the logits;
    * an index out of range is a `ValueError` that names it (on a CPU), and indices may be of any integer type.

    On a CPU, with class indices and more than 16 384 classes, it makes one pass over chunks of rows, keeps one
    buffer of the size of the logits, which becomes the gradient, and lends the statistics of each row. It then has no
    second derivative. (Class weights together with smoothing, and classes that are not contiguous in memory, take the
    ordinary way, as does `torch.compile`.)

    Args:
        weight: Class weights ``[classes]``.
        ignore_index: Rows with this target do not count; it may be a class. Soft targets name no row to ignore.
        reduction: ``mean`` divides by the weights of the counted rows, or by the number of rows for soft targets;
            ``sum``; ``none`` keeps each row, 0 where it does not count.
        label_smoothing: Mass moved from the target to all present classes, in ``[0, 1]``.

    Raises:
        ValueError: If ``reduction`` is unknown, ``label_smoothing`` outside ``[0, 1]``, or, at a call, shapes do not
            fit or a target is no class.
        TypeError: At a call, if logits are not floating point, or targets neither integers nor probabilities.

    Examples:
        >>> loss = CrossEntropyLoss()
        >>> loss(torch.tensor([[0.0, 0.0], [9.0, 0.0]]), torch.tensor([1, -100]))
        tensor(0.6931)
        >>> loss(torch.tensor([[0.0, 0.0]]), torch.tensor([-100]))
        tensor(0.)
        >>> CrossEntropyLoss(label_smoothing=0.1)(torch.tensor([0.0, 0.0, float("-inf")]), torch.tensor(0))
        tensor(0.6931)
    """

    term_name = "cross_entropy"
    weight: Tensor | None

    def __init__(
        self,
        weight: list[float] | Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        check_reduction(reduction)
        check_fraction("label_smoothing", label_smoothing)
        super().__init__(ignore_index)
        self.register_buffer(
            "weight", weight if isinstance(weight, Tensor | None) else torch.tensor(weight, dtype=torch.float32)
        )
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor | None = None) -> Tensor:
        """See `LogitLoss.forward`; targets are required."""
        check_logits(logits)
        if targets is None:
            raise TypeError("cross-entropy needs targets, got None")
        plain = self._plain(logits, targets)
        if plain is not None:
            self.lend(plain)
            return plain
        counted = counted_rows(logits, targets, self.ignore_index)
        weight = lifted_weight(self.weight, logits)
        if counted is None:
            value = self._soft(logits, targets, weight)
        elif self._goes_wide(logits):
            value, rows = wide_cross_entropy(
                logits.movedim(class_axis(logits), -1),
                targets.long(),
                weight=weight,
                ignore_index=self.ignore_index,
                reduction=self.reduction,
                label_smoothing=self.label_smoothing,
            )
            self.lend(value, rows)
            return value
        else:
            value = self._hard(logits, targets.long(), weight, counted)
        self.lend(value)
        return value

    def extra_repr(self) -> str:
        return f"ignore_index={self.ignore_index}, reduction={self.reduction!r}, label_smoothing={self.label_smoothing}"

    def _plain(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """Torch's own loss where it is a finite number, which is most calls; None where the careful way knows better.

        At 256 rows of 10 classes looking at the targets first costs as much again as the loss. Whatever torch refuses,
        or answers with NaN or infinity, is done again with care or refused with a reason.
        """
        if logits.shape[class_axis(logits)] > WIDE_CLASSES or not may_look(logits):
            return None
        try:
            value = F.cross_entropy(
                upcast(logits),
                targets,
                self.weight,
                None,
                self.ignore_index,
                None,
                self.reduction,
                self.label_smoothing,
            )
        except (IndexError, RuntimeError, ValueError):
            return None
        finite = math.isfinite(value.detach()) if value.ndim == 0 else bool(value.isfinite().all())
        return value if finite else None

    def _goes_wide(self, logits: Tensor) -> bool:
        """Whether the chunked pass is defined and worth it."""
        axis = class_axis(logits)
        return (
            logits.shape[axis] > WIDE_CLASSES
            and logits.stride(axis) == 1
            and not (self.label_smoothing > 0 and self.weight is not None)
            # Not under torch.compile, which would unroll the loop over chunks; and not on an accelerator, where nobody
            # has measured it: ten passes over a chunk may lose to the two kernels of torch.
            and may_look(logits)
        )

    def _soft(self, logits: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
        losses = softmax_cross_entropy(
            logits, targets, weight=weight, label_smoothing=self.label_smoothing, dim=class_axis(logits)
        )
        if self.reduction == "none":
            return losses
        return losses.sum() if self.reduction == "sum" else losses.sum() / max(1, losses.numel())

    def _hard(self, logits: Tensor, targets: Tensor, weight: Tensor | None, counted: Tensor) -> Tensor:
        z, smoothing = upcast(logits), self.label_smoothing
        index = torch.where(counted, targets, 0)
        if smoothing > 0 and maybe_absent(logits):
            losses = softmax_cross_entropy(z, index, weight=weight, label_smoothing=smoothing, dim=class_axis(logits))
            losses = torch.where(counted, losses, 0.0)
        elif self.reduction == "mean" and weight is None and all_counted(counted):
            return F.cross_entropy(z, targets, label_smoothing=smoothing)
        else:
            losses = F.cross_entropy(z, targets, weight, None, self.ignore_index, None, "none", smoothing)
        if self.reduction == "none":
            return losses
        if self.reduction == "sum":
            return losses.sum()
        total = counted.sum() if weight is None else torch.where(counted, weight[index], 0.0).sum()
        return losses.sum() / torch.where(total == 0, 1, total)
