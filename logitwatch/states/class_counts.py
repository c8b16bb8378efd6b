"""How often each class was the prediction, and how often the target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.states.protocol import maximised, merge_fields, summed

__all__ = ["ClassCounts"]

# Classes counted one by one: the state has one size for every model, 64 kB.
MOST_CLASSES = 4096


@dataclass(frozen=True)
class ClassCounts:
    """Rows by predicted and by target class, for classes below 4096; a larger vocabulary is not counted.

    Examples:
        >>> seen = ClassCounts.of(torch.tensor([0, 0, 2]), torch.tensor([0, 1, -100]), num_classes=3)
        >>> seen.predicted[:3].tolist(), seen.labelled[:3].tolist(), seen.num_classes.item()
        ([2, 0, 0], [1, 1, 0], 3.0)
    """

    predicted: Tensor = summed()  # int64 [MOST_CLASSES], of rows with a target
    labelled: Tensor = summed()  # int64 [MOST_CLASSES]
    num_classes: Tensor = maximised()  # float64

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> ClassCounts:
        """See `State.empty`."""
        none = torch.zeros(MOST_CLASSES, dtype=torch.int64, device=device)
        return cls(none, none, torch.zeros((), dtype=accumulator_dtype(none.device), device=device))

    @classmethod
    def of(cls, predictions: Tensor, targets: Tensor, mask: Tensor | None = None, *, num_classes: int) -> ClassCounts:
        """Counts of rows.

        Args:
            predictions: Class of each row, int64 ``[rows]``.
            targets: Class of each row, int64 ``[rows]``; one that is no class is not counted, and its row neither.
            mask: Rows that count, bool; all where None.
            num_classes: Number of classes.
        """
        if len(targets) == 0:
            return cls.empty(device=targets.device)
        counted = (targets >= 0) & (targets < num_classes)
        counted = counted if mask is None else counted & mask
        wide = num_classes > MOST_CLASSES
        kept = torch.zeros_like(counted) if wide else counted

        def tally(classes: Tensor) -> Tensor:
            # Rows that do not count fall into a cell of their own, so that nothing has to be read to select them.
            cells = torch.where(kept, classes, MOST_CLASSES)
            return torch.zeros(MOST_CLASSES + 1, dtype=torch.int64, device=classes.device).scatter_add_(
                0, cells, torch.ones_like(cells)
            )[:MOST_CLASSES]

        width = torch.full((), num_classes, dtype=accumulator_dtype(targets.device), device=targets.device)
        return cls(tally(predictions), tally(targets), width)

    def merge(self, other: ClassCounts) -> ClassCounts:
        """See `State.merge`."""
        return merge_fields(self, other)
