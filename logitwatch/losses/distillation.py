"""Distillation: the distance of a student's prediction to that of a teacher, both softened."""

from torch import Tensor

from logitwatch.functional.numerics import upcast
from logitwatch.losses.base import LogitLoss
from logitwatch.losses.inputs import (
    check_logits,
    check_positive,
    check_reduction,
    class_axis,
    counted_rows,
    reduce_rows,
    without_ignored,
)

__all__ = ["DistillationLoss", "distillation_loss"]


def distillation_loss(logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0, dim: int = -1) -> Tensor:
    r"""Divergence of a student from a teacher at a temperature, in nats. Shift-invariant in both.

    .. math:: T^2 \sum_k p_k (\log p_k - \log q_k), \qquad
        p = \mathrm{softmax}(t / T),\quad q = \mathrm{softmax}(z / T)

    The factor :math:`T^2` keeps the size of the gradient as ``T`` grows.

    Args:
        logits: Of the student, any shape with classes on ``dim``.
        teacher_logits: Of the teacher, shaped as ``logits``; no gradient flows into them.
        temperature: ``T > 0``.
        dim: The class axis, which the result drops.

    Returns:
        Divergence of each example ``>= 0``, float32 or wider; ``inf`` where the student lacks a class that the teacher
        has. A class the teacher lacks (``-inf``) adds nothing.

    References:
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.

    Examples:
        >>> import torch
        >>> absent = float("-inf")
        >>> distillation_loss(torch.tensor([[1.0, 0.0, absent]]), torch.tensor([[0.0, 0.0, absent]]), temperature=1.0)
        tensor([0.1201])
    """
    log_q = _log_softmax(upcast(logits) / temperature, dim)
    log_p = _log_softmax(upcast(teacher_logits.detach()) / temperature, dim)
    p = log_p.exp()
    # 0 * inf would be NaN in the product and in its gradient.
    gap = log_p.masked_fill(p == 0, 0.0) - log_q.masked_fill(p == 0, 0.0)
    return temperature**2 * (p * gap).sum(dim)


class DistillationLoss(LogitLoss):
    """Mean `distillation_loss` over the rows that count. Add it to a loss of the labels.

    The teacher's logits are an argument of the call, also of that of a sum: ``loss(logits, targets,
    teacher_logits=...)``. Targets only say which rows count, and may be None.

    Args:
        temperature: ``> 0``.
        ignore_index: Rows with this target do not count.
        reduction: ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: If ``temperature`` is not positive or ``reduction`` unknown; at a call, if the shapes of teacher and
            student differ.
        TypeError: At a call, if there are no logits of a teacher, or of a type that is not floating point.

    Examples:
        >>> import torch
        >>> from logitwatch.losses import CrossEntropyLoss
        >>> loss = CrossEntropyLoss() + 0.5 * DistillationLoss(temperature=1.0)
        >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> loss(student, torch.tensor([0]), teacher_logits=teacher)
        tensor(0.3733)
    """

    term_name = "distillation"
    further_inputs = ("teacher_logits",)

    def __init__(self, temperature: float = 4.0, ignore_index: int = -100, reduction: str = "mean") -> None:
        check_positive("temperature", temperature)
        check_reduction(reduction)
        super().__init__(ignore_index)
        self.temperature = temperature
        self.reduction = reduction

    def forward(self, logits: Tensor, targets: Tensor | None = None, teacher_logits: Tensor | None = None) -> Tensor:
        """See `LogitLoss.forward`; ``teacher_logits`` are required and shaped as ``logits``."""
        check_logits(logits)
        if teacher_logits is None:
            raise TypeError("DistillationLoss needs teacher_logits=..., got None")
        check_logits(teacher_logits)
        if teacher_logits.shape != logits.shape:
            raise ValueError(
                f"teacher_logits must be shaped as logits, {tuple(logits.shape)}, got {tuple(teacher_logits.shape)}"
            )
        counted = None if targets is None else counted_rows(logits, targets, self.ignore_index)
        z, teacher = logits, teacher_logits
        if counted is not None:
            z, teacher = without_ignored(z, counted), without_ignored(teacher, counted)
        rows = distillation_loss(z, teacher, temperature=self.temperature, dim=class_axis(z))
        value = reduce_rows(rows, counted, self.reduction)
        self.lend(value)
        return value

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, ignore_index={self.ignore_index}, reduction={self.reduction!r}"


def _log_softmax(z: Tensor, dim: int) -> Tensor:
    """Torch's own is off by some 5e-6 at 100 000 classes, and the square of the temperature multiplies that."""
    centred = z - z.detach().amax(dim, keepdim=True)
    return centred - centred.logsumexp(dim, keepdim=True)
