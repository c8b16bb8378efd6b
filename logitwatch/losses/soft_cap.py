"""Soft caps: logits squashed into an open interval, and how many of them have run into its ends."""

import math

import torch
from torch import Tensor, nn

from logitwatch.functional.numerics import upcast
from logitwatch.losses.base import LogitLoss, evaluate
from logitwatch.losses.inputs import check_logits, check_positive, class_axis, counted_rows

__all__ = ["LogitSquashing", "SoftCap", "soft_cap", "soft_cap_saturation"]


def soft_cap(logits: Tensor, *, cap: float = 30.0) -> Tensor:
    r"""Logits squashed into :math:`(-c, c)`: :math:`c \tanh(z / c)`. An absent class (``-inf``) stays absent.

    Args:
        logits: Any shape.
        cap: ``c > 0``.

    Returns:
        A tensor shaped as ``logits``, float32 or wider.

    References:
        Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024: 30 for the last logits.

    Examples:
        >>> soft_cap(torch.tensor([1.0, 300.0, float("-inf")]))
        tensor([ 0.9996, 30.0000,    -inf])
    """
    z = upcast(logits)
    absent = z == -torch.inf
    return (cap * torch.tanh(z.masked_fill(absent, 0.0) / cap)).masked_fill(absent, -torch.inf)


def soft_cap_saturation(logits: Tensor, *, cap: float = 30.0, passing: float = 0.1, dim: int = -1) -> Tensor:
    r"""Share of present logits that a soft cap has saturated. A fraction. Not shift-invariant.

    A logit is saturated where less than ``passing`` of its gradient comes through, :math:`1 - \tanh^2(z / c)`; for a
    tenth that is beyond 1.82 caps.

    Args:
        logits: Before the cap, any shape with classes on ``dim``.
        cap: ``c > 0``.
        passing: The share of the gradient, in ``(0, 1)``.
        dim: The class axis, which the result drops.

    Returns:
        Share of each example in ``[0, 1]``, float32 or wider; 0 for a row whose classes are all absent.

    Examples:
        >>> soft_cap_saturation(torch.tensor([[60.0, -60.0, 5.0, 0.0, float("-inf")]]))
        tensor([0.5000])
    """
    z = upcast(logits)
    present = z != -torch.inf
    saturated = present & (z.abs() > cap * math.atanh(math.sqrt(1 - passing)))
    return saturated.sum(dim).to(z.dtype) / present.sum(dim).clamp(min=1)


class SoftCap(nn.Module):
    """`soft_cap` as the last layer of a model: logits in, squashed logits out.

    Args:
        cap: ``> 0``.

    Raises:
        ValueError: If ``cap`` is not positive.

    Examples:
        >>> SoftCap(30.0)(torch.tensor([300.0]))
        tensor([30.])
    """

    def __init__(self, cap: float = 30.0) -> None:
        check_positive("cap", cap)
        super().__init__()
        self.cap = cap

    def forward(self, logits: Tensor) -> Tensor:
        """The logits squashed; float32 or wider."""
        return soft_cap(logits, cap=self.cap)

    def extra_repr(self) -> str:
        return f"cap={self.cap}"


class LogitSquashing(LogitLoss):
    """A loss of soft-capped logits, as `SoftCap` before it. Everything inside it, a `ZLoss` too, sees capped logits.

    It lends the terms of the loss inside, and as a number ``soft_cap_saturation``: the mean `soft_cap_saturation`
    of the rows that count. Predict with `SoftCap` of the same cap.

    Args:
        loss: The loss of the capped logits; a sum for several.
        cap: ``> 0``.

    Raises:
        TypeError: If ``loss`` is no `LogitLoss`.
        ValueError: If ``cap`` is not positive.

    Examples:
        >>> from logitwatch.losses import CrossEntropyLoss, ZLoss
        >>> loss = LogitSquashing(CrossEntropyLoss() + ZLoss(1e-4), cap=30.0)
        >>> loss.lent = {}
        >>> loss(torch.tensor([[300.0, 0.0]]), torch.tensor([1]))
        tensor(30.0900)
        >>> loss.lent["numbers"]
        {'soft_cap_saturation': tensor(0.5000)}
    """

    term_name = "logit_squashing"

    def __init__(self, loss: LogitLoss, cap: float = 30.0) -> None:
        if not isinstance(loss, LogitLoss):
            raise TypeError(f"loss must be a LogitLoss, got {type(loss).__name__}")
        check_positive("cap", cap)
        super().__init__(loss.ignore_index)
        self.loss = loss
        self.cap = cap
        self.further_inputs = loss.further_inputs
        self.binary = loss.binary

    def forward(self, logits: Tensor, targets: Tensor | None = None, **further: Tensor) -> Tensor:
        """See `LogitLoss.forward`."""
        check_logits(logits)
        value, lent = evaluate(self.loss, soft_cap(logits, cap=self.cap), targets, lend=self.asked, **further)
        if self.asked and self.lent is not None:
            saturation = {"soft_cap_saturation": self._saturation(logits.detach(), targets)}
            self.lent["terms"] = lent.get("terms", {self.term_name: value.detach().mean()})
            # The rows of the inner loss are of capped logits, and are not lent.
            self.lent["numbers"] = {**lent.get("numbers", {}), **saturation}
        return value

    def extra_repr(self) -> str:
        return f"cap={self.cap}"

    def _saturation(self, logits: Tensor, targets: Tensor | None) -> Tensor:
        shares = soft_cap_saturation(logits, cap=self.cap, dim=class_axis(logits))
        if targets is None or self.binary:
            return shares.mean()
        counted = counted_rows(logits, targets, self.ignore_index)
        if counted is None:
            return shares.mean()
        return torch.where(counted, shares, 0.0).sum() / counted.sum().clamp(min=1)
