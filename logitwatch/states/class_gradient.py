"""Which classes hold the gradient: how hard cross-entropy pulls each logit up and pushes it down."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype, centred_exp, upcast
from logitwatch.states.protocol import maximised, merge_fields, summed

__all__ = ["ClassGradient"]

CELLS = 4096


@dataclass(frozen=True)
class ClassGradient:
    r"""Sums over rows of the gradient of cross-entropy on each class's logit, of either sign apart.

    .. math:: \text{up}_k = \sum_i \max(0, y_{ik} - p_{ik}) \qquad \text{down}_k = \sum_i \max(0, p_{ik} - y_{ik})

    A class is pulled up in the rows it is the target of, and pushed down in those it takes probability from. Both sums
    over all classes are the same; ``up - down`` of a class is what its bias is told.

    Up to 4096 classes each have a cell; of more, as many neighbours share one as are needed.

    Examples:
        >>> logits = torch.tensor([[0.0, 0.0, -torch.inf]])
        >>> seen = ClassGradient.of(logits, torch.tensor([0]), torch.tensor([True]))
        >>> seen.up_shares().tolist(), seen.down_shares().tolist()
        ([0.5, 0.0, 0.0], [0.0, 0.5, 0.0])
        >>> seen.shares().tolist(), seen.span(1)
        ([0.5, 0.5, 0.0], (1, 1))
        >>> ClassGradient.empty().shares().tolist()
        []
    """

    up: Tensor = summed()  # float64 [4096]
    down: Tensor = summed()  # float64 [4096]
    classes: Tensor = maximised()  # float64, how many there are

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> ClassGradient:
        """See `State.empty`."""
        nothing = torch.zeros(CELLS, dtype=accumulator_dtype(torch.device(device)), device=device)
        return cls(nothing, nothing, nothing[0])

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor, counted: Tensor) -> ClassGradient:
        """The state of rows; one with a number that is not finite is left out.

        Args:
            logits: ``[rows, classes]``.
            targets: Class indices ``[rows]``, or probabilities ``[rows, classes]``.
            counted: Rows that count, whose targets are ones, bool ``[rows]``.
        """
        _, e, s = centred_exp(upcast(logits.detach()).contiguous())
        counted = (counted & s.isfinite()).unsqueeze(-1)
        wide, classes = accumulator_dtype(logits.device), logits.shape[1]
        gradient = (e / s.unsqueeze(-1)).to(wide)
        if targets.ndim == 2:
            gradient = gradient - targets.detach()
        else:
            index = targets.unsqueeze(-1).where(counted, 0).long()
            gradient = gradient.scatter_add(1, index, torch.full_like(gradient[:, :1], -1.0))
        gradient = gradient.where(counted, 0.0)
        down, up = (_cells(part.clamp(min=0).sum(0)) for part in (gradient, -gradient))
        return cls(up, down, up.new_full((), classes if len(logits) else 0))

    def merge(self, other: ClassGradient) -> ClassGradient:
        """See `State.merge`."""
        return merge_fields(self, other)

    def shares(self) -> Tensor:
        """Share of the gradient that each cell holds, ``[cells in use]``, float64; NaN where there is no gradient."""
        return self.up_shares() + self.down_shares()

    def up_shares(self) -> Tensor:
        """The part of `shares` that pulls up, as a target."""
        return self._used(self.up)

    def down_shares(self) -> Tensor:
        """The part of `shares` that pushes down, as a rival of the target."""
        return self._used(self.down)

    def span(self, cell: int) -> tuple[int, int]:
        """The first and the last class of a cell."""
        classes = int(self.classes)
        width = _width(classes)
        return cell * width, min((cell + 1) * width, classes) - 1

    def _used(self, sums: Tensor) -> Tensor:
        classes = int(self.classes)
        return sums[: -(-classes // _width(classes))] / (self.up.sum() + self.down.sum())


def _width(classes: int) -> int:
    """Classes that share a cell."""
    return max(1, -(-classes // CELLS))


def _cells(values: Tensor) -> Tensor:
    """Sums of neighbours, ``[4096]``."""
    width = _width(len(values))
    return torch.nn.functional.pad(values, (0, CELLS * width - len(values))).view(CELLS, width).sum(1)
