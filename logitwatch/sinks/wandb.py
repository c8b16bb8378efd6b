"""Weights & Biases: a whole report as one row, every kind of reading as what W&B calls it."""

import html
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from logitwatch.sinks.buckets import coarser
from logitwatch.sinks.markdown import alert_markdown
from logitwatch.sinks.notices import Notices
from logitwatch.sinks.readings import Alert, Curve, Figure, Heatmap, Histogram, Reading, Scalars, Table, Text

__all__ = ["WandbSink"]

_STEP = "trainer/global_step"
_LEVELS = {"info": "INFO", "warning": "WARN", "critical": "ERROR"}
_ALERT_WAIT = 600
_MOST_BINS = 512
_LONGEST_TITLE = 63

_LOWER_IS_BETTER = (
    *("min", "nll", "ece", "brier_score"),
    *("aurc", "augrc"),
)
_HIGHER_MATTERS = ("max", "accuracy", "nonfinite", "overhead", "faults", "dropped")


class WandbSink:
    """Sends each step of a report as one row, with ``trainer/global_step`` as its x and never a ``step=``.

    Scalars keep their last value in the run's summary, and their smallest or largest where that is the news.

    Args:
        run: ``wandb.Run``, for instance ``WandbLogger.experiment``. It stays its owner's: `close` does not finish it.
        prefix: Put before every key but ``trainer/global_step``, separator included.
        alert_wait: Seconds before W&B sends another alert of the same title.

    Examples:
        >>> class Run:
        ...     def define_metric(self, name, **how):
        ...         pass
        ...     def log(self, row):
        ...         print(row)
        >>> WandbSink(Run()).write([Scalars(values={"logits/val/entropy": 0.5}, step=10)])
        {'trainer/global_step': 10, 'logits/val/entropy': 0.5}
    """

    def __init__(self, run: Any, *, prefix: str = "", alert_wait: float = _ALERT_WAIT) -> None:
        self._run = run
        self._prefix = prefix
        self._alert_wait = alert_wait
        self._notices = Notices("W&B")
        self._defined: set[str] = set()

    def write(self, readings: Sequence[Reading]) -> None:
        """See `Sink.write`."""
        rows: dict[int, dict[str, Any]] = {}
        alerts: list[Alert] = []
        for reading in readings:
            step = int(reading.step)
            row = rows.setdefault(step, {_STEP: step})
            if isinstance(reading, Scalars):
                self._add_scalars(row, reading)
                continue
            self._add(row, reading)
            if isinstance(reading, Alert):
                alerts.append(reading)
        for row in rows.values():
            if len(row) > 1:
                self._run.log(row)
        for alert in alerts:
            self._raise(alert)

    def close(self) -> None:
        """See `Sink.close`. W&B has been given everything."""

    def _add_scalars(self, row: dict[str, Any], reading: Scalars) -> None:
        for tag, value in reading.values.items():
            key = self._prefix + tag
            if key not in self._defined:
                self._define(key, _summary(tag))
            row[key] = float(value)

    def _define(self, key: str, summary: str | None) -> None:
        # A pattern with a summary would also reach histograms, whose summary it spoils: exact keys only.
        if _STEP not in self._defined:
            self._defined.add(_STEP)
            self._run.define_metric(_STEP)
        self._defined.add(key)
        if "*" in key:  # W&B would take the name for a pattern
            return
        self._run.define_metric(key, step_metric=_STEP, summary=summary)

    def _add(self, row: dict[str, Any], reading: Reading) -> None:
        kind = type(reading)
        try:
            media = _PACKERS[kind](reading)
        except ImportError as error:
            self._notices.once(kind.__name__, f"each {kind.__name__} is left out, {error}")
            return
        if media is None:
            self._notices.once(kind.__name__, f"an empty {kind.__name__} is not shown, nor any after it that is empty")
            return
        name = f"alerts/{reading.rule}/text" if isinstance(reading, Alert) else getattr(reading, "tag", "")
        row[self._prefix + _local(name)] = media

    def _raise(self, alert: Alert) -> None:
        self._run.alert(
            title=alert.title[:_LONGEST_TITLE],
            text=alert.text,
            level=_LEVELS.get(alert.level, "WARN"),
            wait_duration=self._alert_wait,
        )


def _summary(tag: str) -> str | None:
    name = next((part for part in reversed(tag.split("/")) if not part.startswith("dataloader_idx_")), "")
    if name in _LOWER_IS_BETTER:
        return "min,last"
    return "max,last" if name in _HIGHER_MATTERS or tag.startswith("alerts/") else None


def _local(tag: str) -> str:
    """``tag`` as a path that stays where it is put: W&B makes a file name of the key of a medium."""
    parts = [part for part in re.split(r"[/\\]", re.sub(r"[\x00-\x1f\x7f]", "_", tag)) if part not in ("", ".", "..")]
    return "/".join(parts) or "unnamed"


def _wandb() -> Any:
    # The run came from this module, so someone has imported it.
    if "wandb" in sys.modules:
        return sys.modules["wandb"]
    import wandb

    return wandb


def _histogram(reading: Histogram) -> Any:
    if not any(reading.counts):
        return None
    return _wandb().Histogram(np_histogram=coarser(reading.counts, reading.edges, _MOST_BINS))


def _curve(reading: Curve) -> Any:
    kept = [index for index, weight in enumerate(reading.weights) if weight > 0]
    if not kept:
        return None
    lines = {reading.y_label or "observed": reading.y, "reference": reading.reference, "lower": reading.lower}
    lines = {name: line for name, line in (lines | {"upper": reading.upper}).items() if line}
    plot = _wandb().plot.line_series
    # The numbers behind the chart are a table of their own; where W&B can, it is kept out of the charts' section.
    apart = {"split_table": True} if "split_table" in inspect.signature(plot).parameters else {}
    return plot(
        xs=[float(reading.x[index]) for index in kept],
        ys=[[float(line[index]) for index in kept] for line in lines.values()],
        keys=list(lines),
        title=reading.meaning or reading.tag,
        xname=reading.x_label or "x",
        **apart,
    )


def _heatmap(reading: Heatmap) -> Any:
    from logitwatch.sinks.raster import heatmap_pixels

    pixels = heatmap_pixels(reading.values)
    caption = f"rows: {', '.join(reading.row_labels)}; columns: {', '.join(reading.column_labels)}"
    return _wandb().Image(pixels, caption=caption) if pixels.size > 3 else None


def _figure(reading: Figure) -> Any:
    figure = reading.factory()
    image = _wandb().Image(figure)
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close(figure)
    return image


def _table(reading: Table) -> Any:
    return _wandb().Table(columns=[str(name) for name in reading.columns], data=[list(row) for row in reading.rows])


def _page(markdown: str) -> Any:
    # inject=False: no style sheet, and so no script, is fetched from elsewhere.
    page = f'<pre style="white-space: pre-wrap; font: 13px sans-serif">{html.escape(markdown)}</pre>'
    return _wandb().Html(page, inject=False)


_PACKERS: dict[type[Any], Callable[[Any], Any]] = {
    Alert: lambda reading: _page(alert_markdown(reading)),
    Curve: _curve,
    Figure: _figure,
    Heatmap: _heatmap,
    Histogram: _histogram,
    Table: _table,
    Text: lambda reading: _page(reading.markdown),
}
