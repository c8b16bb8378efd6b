"""Which classes hold the gradient of some rows, and the table that says so."""

from __future__ import annotations

from collections.abc import Sequence

from logitwatch.capture.observation import Observation
from logitwatch.sinks.glossary import describe
from logitwatch.sinks.readings import Table
from logitwatch.states.class_gradient import ClassGradient

__all__ = ["class_gradient", "class_table"]

# Logits a look takes the softmax of for this: a millisecond or a few.
ELEMENTS, FEWEST = 2**16, 8
MOST_LINES = 20


def class_gradient(sample: Observation) -> ClassGradient:
    """What the rows, or as many evenly spaced ones as have 65,536 logits, ask of each class.

    Of yes-or-no logits, of rows without logits and of rows without targets there is nothing to say.
    """
    shown = sample.shown
    if shown is None:
        return ClassGradient.empty(device=sample.valid.device)
    few = shown.spread(max(FEWEST, ELEMENTS // shown.num_classes))
    if few.targets is None or few.binary or few.logits.device != few.valid.device:
        return ClassGradient.empty(device=few.valid.device)
    return ClassGradient.of(few.logits, few.targets, few.valid & ~few.bad_target)


def class_table(tag: str, step: int, seen: ClassGradient, names: Sequence[str] | None = None) -> list[Table]:
    """The classes that hold most of the gradient, at most 20; nothing where there is no gradient.

    Args:
        tag: Of the table.
        step: Of the report.
        seen: A state on the CPU.
        names: Of the classes, in their order; a class without a name goes by its index.

    Examples:
        >>> import torch
        >>> seen = ClassGradient.of(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([True]))
        >>> [table] = class_table("gradients/val/classes", 3, seen, ["cat", "dog"])
        >>> list(table.columns), table.rows[0]
        (['class', 'share', 'up', 'down'], ('cat', 0.5, 0.5, 0.0))
    """
    shares, up, down = seen.shares(), seen.up_shares(), seen.down_shares()
    order = shares.argsort(descending=True, stable=True)[:MOST_LINES].tolist()
    lines = [
        (_name(*seen.span(cell), names or ()), *(part[cell].item() for part in (shares, up, down)))
        for cell in order
        if shares[cell] > 0
    ]
    columns, meaning = ("class", "share", "up", "down"), describe(tag).meaning
    return [Table(tag=tag, step=step, columns=columns, rows=lines, meaning=meaning)] if lines else []


def _name(first: int, last: int, names: Sequence[str]) -> str:
    ends = [names[index] if index < len(names) else str(index) for index in dict.fromkeys((first, last))]
    return " to ".join(ends)
