"""What a monitor reports: plain numbers with a tag, a step, a unit and a meaning, and nothing of where they go."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["Alert", "Curve", "Figure", "Heatmap", "Histogram", "Reading", "Scalars", "Table", "Text"]


@dataclass(frozen=True, kw_only=True)
class Scalars:
    """Numbers of one moment under their tags. Units and meanings are in `logitwatch.sinks.glossary`, by tag.

    Examples:
        >>> Scalars(values={"logits/train/entropy": 0.5}, step=10).values["logits/train/entropy"]
        0.5
    """

    values: Mapping[str, float]
    step: int


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Exact counts between edges; values outside are counted apart, never dropped in silence.

    Attributes:
        counts: ``n`` counts.
        edges: ``n + 1`` ascending finite edges.
        nonfinite: How many NaN and infinite values were seen and are not in ``counts``.
        minimum, maximum, total, squares: Extrema, sum and sum of squares of what was counted.
    """

    tag: str
    step: int
    counts: Sequence[int]
    edges: Sequence[float]
    minimum: float
    maximum: float
    total: float
    squares: float
    nonfinite: int = 0
    unit: str = ""
    meaning: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points ``(x, y)`` with how much each weighs and, where known, the interval of y.

    Attributes:
        weights: Rows behind each point; a point of weight 0 carries no evidence and is not drawn.
        reference: The line to compare with, as y at the same x; for calibration the diagonal.
    """

    tag: str
    step: int
    x: Sequence[float]
    y: Sequence[float]
    weights: Sequence[float]
    lower: Sequence[float] = ()
    upper: Sequence[float] = ()
    reference: Sequence[float] = ()
    x_label: str = ""
    y_label: str = ""
    unit: str = ""
    meaning: str = ""


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A matrix of numbers with a label for each row and column."""

    tag: str
    step: int
    values: Sequence[Sequence[float]]
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    unit: str = ""
    meaning: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Named columns and rows of plain values."""

    tag: str
    step: int
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    meaning: str = ""


@dataclass(frozen=True, kw_only=True)
class Text:
    """A short text in Markdown."""

    tag: str
    step: int
    markdown: str


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Something a person should know now: what happened, against what, the likely cause, and what to do.

    Attributes:
        rule: Name of the rule, as in the tag ``alerts/<rule>``.
        level: ``info``, ``warning`` or ``critical``.
    """

    rule: str
    step: int
    level: str
    title: str
    text: str
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture that is drawn only where a sink can show it: ``factory()`` returns a matplotlib figure."""

    tag: str
    step: int
    factory: Callable[[], Any]
    meaning: str = ""


Reading: TypeAlias = Scalars | Histogram | Curve | Heatmap | Table | Text | Alert | Figure
