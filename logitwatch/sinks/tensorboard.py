"""TensorBoard: a whole report as one event, every kind of reading on a page of its own."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.pr_curve.plugin_data_pb2 import PrCurvePluginData
from tensorboard.plugins.text.plugin_data_pb2 import TextPluginData

from logitwatch.sinks.buckets import coarser
from logitwatch.sinks.checksum import use_compiled_checksum
from logitwatch.sinks.glossary import describe
from logitwatch.sinks.markdown import alert_markdown, table_markdown
from logitwatch.sinks.notices import Notices
from logitwatch.sinks.raster import heatmap_pixels, png
from logitwatch.sinks.readings import Alert, Curve, Figure, Heatmap, Histogram, Reading, Scalars, Table, Text
from logitwatch.sinks.room import require_room
from logitwatch.sinks.scalar_layout import Chart, scalar_layout

__all__ = ["TensorBoardSink"]

_LAYOUT_TAG = "custom_scalars__config__"
_MOST_BUCKETS = 64
_MOST_THRESHOLDS = 127  # the plugin's own limit

_seen_tags: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()


class TensorBoardSink:
    """Writes each step of a report as one event of the writer's own file.

    Scalars go to Time Series and, arranged, to Custom Scalars; histograms to Histograms and Distributions; a curve to
    PR Curves, with its reference; alerts, texts and tables to Text; heatmaps and figures to Images. The Custom Scalars
    layout is part of the report that first shows a new chart.

    Args:
        writer: ``torch.utils.tensorboard.SummaryWriter``, for instance ``TensorBoardLogger.experiment``. It stays its
            owner's: `close` flushes it and no more.
        prefix: Put before every tag, separator included.

    Examples:
        >>> import tempfile
        >>> from torch.utils.tensorboard import SummaryWriter
        >>> writer = SummaryWriter(tempfile.mkdtemp())
        >>> sink = TensorBoardSink(writer)
        >>> sink.write([Scalars(values={"logits/train/entropy": 0.5}, step=10)])
        >>> sink.close()
        >>> writer.close()
    """

    def __init__(self, writer: Any, *, prefix: str = "") -> None:
        self._writer = writer
        self._prefix = prefix
        self._notices = Notices("TensorBoard")
        # A test after a fit writes into the same file with a sink of its own, and the page shows the last layout.
        self._scalar_tags = _seen_tags.setdefault(writer, {})
        self._explained: set[str] = set()
        self._layout: dict[str, list[Chart]] = {}
        self._file_writer: Any = None

    def write(self, readings: Sequence[Reading]) -> None:
        """See `Sink.write`. Raises OSError, and hands over nothing, where the disk is nearly full."""
        # The writer's own thread would meet the full disk, and its owner's next log or finalize end the run with it.
        require_room(self._path())
        summaries: dict[int, Summary] = {}
        figures: list[Figure] = []
        for reading in readings:
            if isinstance(reading, Figure):
                figures.append(reading)
                continue
            summary = summaries.setdefault(int(reading.step), Summary())
            if isinstance(reading, Scalars):
                self._add_scalars(summary, reading)
            else:
                self._add(summary, reading)
        for step, summary in summaries.items():
            if summary.value:
                self._send(summary, step)
        for figure in figures:
            self._draw(figure)

    def close(self) -> None:
        """See `Sink.close`."""
        self._writer.flush()

    def _path(self) -> str:
        """The event file, or its folder where the writer's inside has changed."""
        events = getattr(self._writer._get_file_writer(), "event_writer", None)
        return str(getattr(events, "_file_name", self._writer.log_dir))

    def _send(self, summary: Summary, step: int) -> None:
        file_writer = self._writer._get_file_writer()
        if file_writer is not self._file_writer:  # the first report, or the writer was closed and opened a new file
            self._file_writer = file_writer
            use_compiled_checksum(self._writer)
        file_writer.add_summary(summary, step)

    def _add_scalars(self, summary: Summary, reading: Scalars) -> None:
        add, tags, fresh = summary.value.add, self._scalar_tags, False
        for name, number in reading.values.items():
            tag = tags.get(name)
            if tag is None:
                tags[name] = tag = self._prefix + name
                fresh = True
            add(tag=tag, simple_value=float(number))
        if fresh:
            self._add_layout(summary)

    def _add_layout(self, summary: Summary) -> None:
        layout = scalar_layout(self._scalar_tags)
        if layout == self._layout:
            return
        self._layout = layout
        blob = _layout_proto(layout, self._prefix).SerializeToString()
        tensor = TensorProto(dtype="DT_STRING", string_val=[blob], tensor_shape=TensorShapeProto())
        summary.value.add(tag=_LAYOUT_TAG, tensor=tensor, metadata=_metadata("custom_scalars"))

    def _add(self, summary: Summary, reading: Reading) -> None:
        kind = type(reading)
        packed = _PACKERS[kind](reading)
        if packed is None:
            self._notices.once(kind.__name__, f"an empty {kind.__name__} is not shown, nor any after it that is empty")
            return
        name = f"alerts/{reading.rule}/text" if isinstance(reading, Alert) else getattr(reading, "tag", "")
        packed.tag = self._prefix + name
        if name in self._explained:
            packed.metadata.ClearField("summary_description")
        else:  # TensorBoard keeps the first description of a tag
            self._explained.add(name)
            packed.metadata.summary_description = _description(reading, name)
        summary.value.append(packed)

    def _draw(self, figure: Figure) -> None:
        try:
            self._writer.add_figure(self._prefix + figure.tag, figure.factory(), figure.step)
        except ImportError as error:
            self._notices.once("Figure", f"figures are not shown, {error}")


def _metadata(plugin: str, content: bytes = b"") -> SummaryMetadata:
    return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin, content=content))


def _description(reading: Reading, tag: str) -> str:
    about = describe(tag)
    unit = getattr(reading, "unit", "") or about.unit
    meaning = getattr(reading, "meaning", "") or about.meaning
    labels = (getattr(reading, "x_label", ""), getattr(reading, "y_label", ""))
    axes = f"x: {labels[0]}, y: {labels[1]}" if all(labels) else ""
    return "; ".join(part for part in (meaning, axes, f"in {unit}" if unit else "") if part)


def _histogram_value(reading: Histogram) -> Summary.Value | None:
    filled = [index for index, count in enumerate(reading.counts) if count]
    if not filled:
        return None
    # The page redraws from the smallest value to the largest; empty ends would be bytes for nothing.
    start, end = filled[0], filled[-1] + 1
    counts, edges = coarser(reading.counts[start:end], reading.edges[start : end + 1], _MOST_BUCKETS)
    histogram = HistogramProto(
        min=_finite_or(reading.minimum, edges[0]),
        max=_finite_or(reading.maximum, edges[-1]),
        num=sum(counts),
        sum=reading.total,
        sum_squares=reading.squares,
        bucket_limit=edges[1:],
        bucket=counts,
    )
    return Summary.Value(histo=histogram, metadata=_metadata("histograms"))


def _finite_or(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def _curve_value(reading: Curve) -> Summary.Value | None:
    """The curve as the PR plugin wants it: x as recall, falling; y as precision; counts so that nothing is trimmed."""
    points = _points(reading.x, reading.y, reading.weights)
    if not points:
        return None
    # The page draws one line a run and chart: the pen goes back along the reference, in the run's own colour.
    points = points[::-1] + _points(reading.x, reading.reference, [1.0] * len(reading.reference))
    rows: list[list[float]] = [[], [], [], [], [], []]
    for x, y, weight in points:
        hits = round(min(max(y, 0.0), 1.0) * weight)
        misses = max(round(weight) - hits, 0 if hits else 1)
        for row, number in zip(rows, (hits, misses, 0.0, 0.0, y, x), strict=True):
            row.append(number)
    size = TensorShapeProto.Dim(size=len(points))
    tensor = TensorProto(
        dtype="DT_FLOAT",
        float_val=[number for row in rows for number in row],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=len(rows)), size]),
    )
    content = PrCurvePluginData(version=0, num_thresholds=min(len(points), _MOST_THRESHOLDS)).SerializeToString()
    return Summary.Value(tensor=tensor, metadata=_metadata("pr_curves", content))


def _points(x: Sequence[float], y: Sequence[float], weights: Sequence[float]) -> list[tuple[float, float, float]]:
    """``(x, y, weight)`` by rising x, as many at every step: a point without evidence repeats its neighbour."""
    known: list[tuple[float, float, float]] = []
    missing = 0
    for point in zip(x, y, weights, strict=False):
        if not (point[2] > 0 and math.isfinite(point[0]) and math.isfinite(point[1])):
            missing += 1
            continue
        known += [(float(point[0]), float(point[1]), float(point[2]))]
    return sorted(known + known[-1:] * missing)


def _heatmap_value(reading: Heatmap) -> Summary.Value | None:
    pixels = heatmap_pixels(reading.values)
    height, width, channels = pixels.shape
    if height * width == 1:
        return None
    image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png(pixels))
    return Summary.Value(image=image, metadata=_metadata("images"))


def _text_value(markdown: str) -> Summary.Value:
    tensor = TensorProto(
        dtype="DT_STRING",
        string_val=[markdown.encode(errors="replace")],
        tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
    )
    return Summary.Value(tensor=tensor, metadata=_metadata("text", TextPluginData(version=0).SerializeToString()))


_PACKERS: dict[type[Any], Callable[[Any], Summary.Value | None]] = {
    Alert: lambda reading: _text_value(alert_markdown(reading)),
    Curve: _curve_value,
    Heatmap: _heatmap_value,
    Histogram: _histogram_value,
    Table: lambda reading: _text_value(table_markdown(reading.columns, reading.rows)),
    Text: lambda reading: _text_value(reading.markdown),
}


def _layout_proto(layout: dict[str, list[Chart]], prefix: str) -> Any:
    categories = []
    for title, charts in layout.items():
        packed = [_band(chart, prefix) if chart.band else _lines(chart, prefix) for chart in charts]
        categories.append(layout_pb2.Category(title=title, chart=packed))
    return layout_pb2.Layout(category=categories)


def _band(chart: Chart, prefix: str) -> Any:
    value, lower, upper = (prefix + tag for tag in chart.tags)
    series = layout_pb2.MarginChartContent.Series(value=value, lower=lower, upper=upper)
    return layout_pb2.Chart(title=chart.title, margin=layout_pb2.MarginChartContent(series=[series]))


def _lines(chart: Chart, prefix: str) -> Any:
    # The page takes patterns, matched from the start.
    patterns = [f"{re.escape(prefix + tag)}(/dataloader_idx_\\d+)?$" for tag in chart.tags]
    return layout_pb2.Chart(title=chart.title, multiline=layout_pb2.MultilineChartContent(tag=patterns))
