"""Readings as the lines of one session of a record, a tag explained on its first."""

from collections.abc import Iterable, Sequence
from math import isfinite

from logitwatch.sinks.glossary import describe
from logitwatch.sinks.plain_json import encoded
from logitwatch.sinks.readings import Alert, Reading, Scalars
from logitwatch.sinks.records import KINDS

__all__ = ["ReportLines"]


class ReportLines:
    """What one session has explained so far, and lines that explain the rest.

    Examples:
        >>> lines = ReportLines()
        >>> first, second = (lines.of([Scalars(values={"mine": step}, step=step)], "17.250") for step in (3, 4))
        >>> first
        [b'{"kind":"scalar","tag":"mine","unit":"","meaning":"","value":3.0,"step":3,"time":17.250']
        >>> second
        [b'{"kind":"scalar","tag":"mine","unit":"","value":4.0,"step":4,"time":17.250']
    """

    def __init__(self) -> None:
        self._heads = _Heads()
        self._explained: dict[tuple[str, str], str] = {}

    def of(self, readings: Sequence[Reading], now: str) -> list[bytes]:
        """One line a reading, one a tag for scalars, each a JSON object without its last brace.

        Args:
            readings: One report.
            now: Seconds since 1970 in decimals.
        """
        lines: list[bytes] = []
        for reading in readings:
            if isinstance(reading, Scalars):
                lines += self._scalars(reading, now)
            else:
                lines.append(self._line(reading, now))
        return lines

    def _scalars(self, reading: Scalars, now: str) -> list[bytes]:
        # Joined and split all at once, for a line by itself costs more than its checksum.
        pieces = [f',"step":{int(reading.step)},"time":{now}\n'] * (3 * len(reading.values))
        pieces[::3] = map(self._heads.__getitem__, reading.values)
        pieces[1::3] = _numerals(reading.values.values())
        return "".join(pieces).encode().split(b"\n")[:-1]

    def _line(self, reading: Reading, now: str) -> bytes:
        fields = dict(vars(reading))
        tag = f"alerts/{fields['rule']}" if isinstance(reading, Alert) else fields.pop("tag")
        about, kind = describe(tag), KINDS[type(reading)]
        fields["unit"] = fields.get("unit") or about.unit
        meaning = fields.pop("meaning", "") or about.meaning
        if self._explained.get((kind, tag)) != meaning:
            self._explained[kind, tag] = fields["meaning"] = meaning
        fields.pop("factory", None)
        body = encoded({"kind": kind, "tag": tag, **fields})
        return f'{body[:-1]},"time":{now}'.encode()


class _Heads(dict[str, str]):
    """What the line of a scalar begins with, by tag; the first time with the meaning of the tag."""

    def __missing__(self, tag: str) -> str:
        about = describe(tag)
        head = f'{{"kind":"scalar","tag":{encoded(tag)},"unit":{encoded(about.unit)}'
        self[tag] = f'{head},"value":'
        return f'{head},"meaning":{encoded(about.meaning)},"value":'


def _numerals(numbers: Iterable[float]) -> list[str]:
    """Numbers as JSON has them, or as the names it has none for."""
    try:
        numerals = list(map(float.__repr__, numbers))
    except TypeError:  # integers, tensors
        return _numerals(list(map(float, numbers)))
    finite = isfinite(sum(numbers))
    return numerals if finite else list(map(encoded, map(float, numbers)))
