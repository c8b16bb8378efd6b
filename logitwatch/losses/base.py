"""What every loss of logits promises: class axis as in torch, terms that add, and statistics lent to the monitors."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from logitwatch.losses.lending import LendingLoss

__all__ = ["LogitLoss", "LossSum", "evaluate"]


class LogitLoss(LendingLoss, ABC):
    """A loss of logits. ``a + b`` adds losses, ``2 * a`` scales one, ``sum([a, b])`` works too.

    Of losses inside one another the outermost is asked. A forward that finds a dictionary in ``lent`` leaves in it

    * ``"terms"``: the detached value of each term by name, its scale included; the mean where nothing is reduced;
    * ``"rows"``, only where they cost nothing: detached float32 ``[rows]`` tensors ``max_logit``, ``log_partition``,
      ``entropy`` and ``nll`` over all rows in torch's order ``(N, d1, ...)``; ``nll`` is NaN for an ignored row.

    * ``"numbers"``, only from losses that have some: further detached numbers of this forward by name, such as the
      share of logits that a soft cap has saturated. They are logged beside the terms.

    See `LendingLoss` for the arguments and for how it is asked.

    Attributes:
        further_inputs: Names of the tensors a forward takes by keyword, besides logits and targets; a sum hands each
            to the terms that take it.
        binary: Whether each logit is a yes-or-no decision of its own, with a target of its own.
    """

    further_inputs: tuple[str, ...] = ()
    binary = False

    # The further inputs differ from loss to loss, which no signature of a common forward can say.
    @abstractmethod
    def forward(self, logits: Tensor, targets: Tensor | None = None) -> Tensor:
        """The loss, float32 or wider; an implementer calls `lend` with it and takes its `further_inputs` by keyword.

        Args:
            logits: ``[N, C]``, ``[C]`` or ``[N, C, d1, ...]``, classes where torch's `CrossEntropyLoss` has them.
            targets: Class indices, shaped as ``logits`` without the class axis; or probabilities, shaped as
                ``logits``; or None for a penalty, which needs no target.
        """

    def lend(
        self, value: Tensor, rows: dict[str, Tensor] | None = None, numbers: dict[str, Tensor] | None = None
    ) -> None:
        """Leave what is known of this forward where a monitor looks for it; nothing unless one asked."""
        if not self.asked or self.lent is None:
            return
        self.lent["terms"] = {self.term_name: value.detach().mean()}
        if rows:
            self.lent["rows"] = rows
        if numbers:
            self.lent["numbers"] = numbers

    def __add__(self, other: "LogitLoss") -> "LossSum":
        return LossSum([self, other]) if isinstance(other, LogitLoss) else NotImplemented

    def __radd__(self, other: int) -> "LogitLoss":
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __mul__(self, scale: float) -> "LossSum":
        return LossSum([self], [scale]) if isinstance(scale, int | float) else NotImplemented

    __rmul__ = __mul__


class LossSum(LogitLoss):
    r"""A sum of losses of the same logits, :math:`\sum_i a_i L_i`; a sum inside a sum is flattened.

    A term that is not reduced (``reduction="none"``) keeps its rows, and a penalty is added to each of them.

    Args:
        terms: The losses.
        scales: One finite number for each term; None for 1.

    Raises:
        ValueError: If there is no term, the numbers of terms and scales differ, a scale is not finite, or the terms
            disagree on ``ignore_index``, so that they would count different rows.

    Examples:
        >>> import torch
        >>> from logitwatch.losses import CrossEntropyLoss, ZLoss
        >>> criterion = CrossEntropyLoss() + 2 * ZLoss(0.5)
        >>> criterion.lent = {}
        >>> criterion(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor(1.1736)
        >>> {name: round(value.item(), 4) for name, value in criterion.lent["terms"].items()}
        {'cross_entropy': 0.6931, 'z_loss': 0.4805}
        >>> criterion(torch.tensor([[0.0, 0.0]]), torch.tensor([-100]))
        tensor(0.)
    """

    term_name = "loss_sum"

    def __init__(self, terms: Sequence[LogitLoss], scales: Sequence[float] | None = None) -> None:
        scales = [1.0] * len(terms) if scales is None else scales
        if not terms or len(terms) != len(scales):
            raise ValueError(f"expected one or more terms and a scale for each, got {len(terms)} and {len(scales)}")
        if not all(math.isfinite(scale) for scale in scales):
            raise ValueError(f"scales must be finite, got {list(scales)}")
        flat = [pair for term, scale in zip(terms, scales, strict=True) for pair in _flatten(term, float(scale))]
        ignored = {term.ignore_index for term, _ in flat}
        if len(ignored) > 1:
            raise ValueError(f"terms must share one ignore_index, got {sorted(ignored)}")
        super().__init__(ignored.pop())
        self.further_inputs = tuple(dict.fromkeys(name for term, _ in flat for name in term.further_inputs))
        self.binary = any(term.binary for term, _ in flat)
        self.terms = nn.ModuleList(term for term, _ in flat)
        self.scales = tuple(scale for _, scale in flat)

    def forward(self, logits: Tensor, targets: Tensor | None = None, **further: Tensor) -> Tensor:
        """See `LogitLoss.forward`; each of the further tensors goes to the terms that take it."""
        if unknown := set(further) - set(self.further_inputs):
            raise TypeError(f"the terms take {list(self.further_inputs)} by keyword, got {sorted(unknown)}")
        values, lent = [], []
        for term, scale in zip(self.terms, self.scales, strict=True):
            assert isinstance(term, LogitLoss)
            taken = {name: further[name] for name in term.further_inputs if name in further}
            value, from_term = evaluate(term, logits, self.targets_of(term, targets), lend=self.asked, **taken)
            values.append(value if scale == 1 else scale * value)
            lent.append(from_term)
        if self.asked and self.lent is not None:
            means = (value.detach().mean() for value in values)
            self.lent["terms"] = dict(zip(self.term_names(), means, strict=True))
            if rows := next((of_term["rows"] for of_term in lent if "rows" in of_term), None):
                self.lent["rows"] = rows
            if numbers := {k: v for of_term in lent for k, v in of_term.get("numbers", {}).items()}:
                self.lent["numbers"] = numbers
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

    def targets_of(self, term: LogitLoss, targets: Tensor | None) -> Tensor | None:
        """The targets for a term: in a sum about yes-or-no decisions a penalty has none, and takes every row."""
        return targets if term.binary == self.binary else None

    def term_names(self) -> list[str]:
        """What each term is called where terms are listed; of the same name the second is ``_2``, the third ``_3``."""
        return _distinct([str(term.term_name) for term in self.terms])

    def extra_repr(self) -> str:
        return f"scales={self.scales}"


def evaluate(
    loss: LogitLoss, logits: Tensor, targets: Tensor | None, *, lend: bool, **further: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """The value of a loss inside another, and what it lends if ``lend``.

    Examples:
        >>> import torch
        >>> from logitwatch.losses import ZLoss
        >>> value, lent = evaluate(ZLoss(1.0), torch.zeros(1, 2), None, lend=True)
        >>> value, lent
        (tensor(0.4805), {'terms': {'z_loss': tensor(0.4805)}})
    """
    if not lend:
        return loss(logits, targets, **further), {}
    lent: dict[str, Any] = {}
    loss.lent = lent
    try:
        return loss(logits, targets, **further), lent
    finally:
        loss.lent = None


def _flatten(term: LogitLoss, scale: float) -> Iterable[tuple[LogitLoss, float]]:
    """A term as scaled terms that are not sums."""
    if not isinstance(term, LossSum):
        yield term, scale
        return
    for inner, inner_scale in zip(term.terms, term.scales, strict=True):
        assert isinstance(inner, LogitLoss)
        yield inner, scale * inner_scale


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, the second and later of the same name numbered ``_2``, ``_3``."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result
