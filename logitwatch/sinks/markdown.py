"""Readings as Markdown, for backends that show text. What came from data cannot become markup."""

import math
import re
from collections.abc import Sequence
from typing import Any

from logitwatch.sinks.readings import Alert

__all__ = ["alert_markdown", "escaped", "table_markdown"]

_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|>])")
_ENTITIES = {"&": "&amp;", "<": "&lt;"}
_LEVELS = {"info": "note", "warning": "warning", "critical": "critical"}


def escaped(text: str) -> str:
    """``text`` on one line, shown in Markdown as it is: no emphasis, link, cell border or HTML comes of it.

    Examples:
        >>> escaped("a*b | <script>")
        'a\\\\*b \\\\| &lt;script\\\\>'
        >>> escaped("two" + chr(10) + "lines")
        'two lines'
    """
    flat = " ".join(text.split())
    return _MARKUP.sub(r"\\\1", re.sub("[&<]", lambda match: _ENTITIES[match[0]], flat))


def table_markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; numbers to six significant digits, everything else escaped.

    Examples:
        >>> print(table_markdown(["class", "ece"], [["cat|dog", 0.123456789], ["owl", float("nan")]]))
        | class | ece |
        | --- | --- |
        | cat\\|dog | 0.123457 |
        | owl | NaN |
    """
    lines = [[escaped(str(name)) for name in columns], ["---"] * len(columns)]
    lines += [[_cell(value) for value in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def alert_markdown(alert: Alert) -> str:
    """An alert with its level and numbers. Its text is Markdown of the suite's own making and stays as it is.

    Examples:
        >>> alert = Alert(rule="r", step=1, level="warning", title="Up!", text="Cool it.", values={"z": 2.0})
        >>> print(alert_markdown(alert))
        **warning: Up\\!**
        <BLANKLINE>
        Cool it.
        <BLANKLINE>
        | quantity | value |
        | --- | --- |
        | z | 2 |
    """
    parts = [f"**{_LEVELS.get(alert.level, escaped(alert.level))}: {escaped(alert.title)}**", alert.text]
    if alert.values:
        parts.append(table_markdown(["quantity", "value"], list(alert.values.items())))
    return "\n\n".join(parts)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else f"{value:.6g}".replace("inf", "∞")
    return escaped(str(value))
