import io
import math

import lightning.pytorch.loggers
import numpy as np
import pytest
import pytorch_lightning.loggers
from helpers.disks import small_disk
from helpers.event_files import accumulated, array, events, served_curve, text
from helpers.reports import every_kind, histogram, reliability, training_report
from PIL import Image
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.utils.tensorboard import SummaryWriter

from logitwatch.sinks.opening import open_sinks
from logitwatch.sinks.readings import Alert, Heatmap, Scalars, Table
from logitwatch.sinks.room import RESERVE
from logitwatch.sinks.tensorboard import TensorBoardSink


def written(folder, *reports, prefix=""):
    writer = SummaryWriter(str(folder))
    sink = TensorBoardSink(writer, prefix=prefix)
    for report in reports:
        sink.write(report)
    sink.close()
    writer.close()
    return accumulated(folder)


def layout_of(accumulator):
    layout = layout_pb2.Layout()
    layout.ParseFromString(array(accumulator.Tensors("custom_scalars__config__")[-1]).item())
    return layout


def test_a_report_is_one_event(tmp_path):
    written(tmp_path, training_report(step=50), training_report(step=100))
    sizes = [(event.step, len(event.summary.value)) for event in events(tmp_path) if event.HasField("summary")]
    assert sizes == [(50, 29), (100, 29)]


def test_scalars_are_the_bytes_add_scalar_would_write(tmp_path):
    written(tmp_path / "ours", [Scalars(values={"a": 0.1, "b": math.nan, "c": math.inf}, step=3)])
    with SummaryWriter(str(tmp_path / "theirs")) as writer:
        for tag, value in {"a": 0.1, "b": math.nan, "c": math.inf}.items():
            writer.add_scalar(tag, value, 3)
    values = [
        [value.SerializeToString() for event in events(tmp_path / name) for value in event.summary.value]
        for name in ("ours", "theirs")
    ]
    assert values[0] == values[1]


def test_steps_of_one_report_are_events_of_their_own(tmp_path):
    found = written(tmp_path, [Scalars(values={"a": float(step)}, step=step) for step in (1, 2, 2)])
    assert [(event.step, event.value) for event in found.Scalars("a")] == [(1, 1.0), (2, 2.0), (2, 2.0)]
    assert len([event for event in events(tmp_path) if event.HasField("summary")]) == 2


def test_a_histogram_keeps_its_counts_and_moments_and_drops_empty_ends(tmp_path):
    reading = histogram(counts=[0, 3, 0, 5, 0], edges=[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], minimum=1.5, maximum=3.5)
    value = written(tmp_path, [reading]).Histograms("logits/val/histogram")[0].histogram_value
    assert (value.min, value.max, value.num, value.sum, value.sum_squares) == (1.5, 3.5, 8.0, 5.5, 11.5)
    assert (list(value.bucket), list(value.bucket_limit)) == ([3.0, 0.0, 5.0], [2.0, 3.0, 4.0])


def test_a_fine_histogram_is_joined_to_64_buckets_or_fewer(tmp_path):
    edges = np.linspace(-1, 1, 1001)
    value = written(tmp_path, [histogram(counts=[3] * 1000, edges=edges)]).Histograms("logits/val/histogram")[0]
    assert len(value.histogram_value.bucket) <= 64
    assert sum(value.histogram_value.bucket) == 3000


def test_a_histogram_of_nothing_is_not_written_and_said_once(tmp_path, caplog):
    empty = histogram(counts=[0] * 4, minimum=math.inf, maximum=-math.inf)
    found = written(tmp_path, [empty], [empty])
    assert found.Tags()["histograms"] == []
    assert len(caplog.records) == 1


def test_the_plugin_serves_the_whole_reliability_curve_and_its_diagonal(tmp_path):
    (event,) = written(tmp_path, [reliability()]).Tensors("calibration/val/reliability")
    served = served_curve(event)
    points = list(zip(np.round(served["recall"], 6), np.round(served["precision"], 6), strict=True))
    # The point of 0.5 has no rows: a neighbour stands twice, so that every step has as many points.
    assert points[:4] == [(1.0, 0.9), (1.0, 0.9), (0.75, 0.7), (0.25, 0.2)]
    assert points[4:] == [(0.25, 0.25), (0.5, 0.5), (0.75, 0.75), (1.0, 1.0)]
    assert served["true_positives"][0] == 90
    assert served["false_positives"][0] == 10


def test_the_number_of_points_is_the_same_at_every_step(tmp_path):
    weights = ([1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0], [9.0] * 4)
    curves = [reliability(step=step, weights=w, y=[0.0, 0.5, 0.75, 1.0]) for step, w in enumerate(weights)]
    found = written(tmp_path, *[[curve] for curve in curves]).Tensors("calibration/val/reliability")
    assert {array(event).shape for event in found} == {(6, 8)}


def test_no_point_of_a_curve_can_be_trimmed(tmp_path):
    curve = reliability(y=[0.0] * 4, weights=[1e-3, 0.4, 0.5, 0.6])
    (event,) = written(tmp_path, [curve]).Tensors("calibration/val/reliability")
    assert (array(event)[:2].astype(int).sum(axis=0) > 0).all()


def test_a_curve_without_evidence_or_without_reference_is_no_trouble(tmp_path):
    bare = reliability(reference=[], step=2)
    found = written(tmp_path, [reliability(weights=[0.0] * 4)], [bare]).Tensors("calibration/val/reliability")
    assert [(event.step, array(event).shape) for event in found] == [(2, (6, 4))]


def test_an_alert_is_text_beside_its_count_and_not_in_its_place(tmp_path):
    alert = Alert(rule="saturation", step=5, level="warning", title="<b>", text="Add `ZLoss`.")
    found = written(tmp_path, [Scalars(values={"alerts/saturation": 1.0}, step=5), alert])
    assert found.Scalars("alerts/saturation")[0].value == 1.0
    assert text(found, "alerts/saturation/text") == ["**warning: &lt;b\\>**\n\nAdd `ZLoss`."]


def test_a_table_is_markdown_that_data_cannot_break(tmp_path):
    found = written(tmp_path, [Table(tag="t", step=1, columns=["token"], rows=[["|<script>"]])])
    assert text(found, "t") == ["| token |\n| --- |\n| \\|&lt;script\\> |"]


def test_a_heatmap_is_a_picture_with_square_cells(tmp_path):
    heat = Heatmap(tag="h", step=1, values=[[0.0, 1.0]], row_labels=["r"], column_labels=["a", "b"], meaning="m")
    found = written(tmp_path, [heat])
    image = found.Images("h")[0]
    assert (image.width, image.height) == (320, 160)
    assert Image.open(io.BytesIO(image.encoded_image_string)).size == (320, 160)
    assert found.SummaryMetadata("h").summary_description == "m"


def test_a_figure_is_drawn_and_closed(tmp_path):
    import matplotlib.pyplot as plt

    found = written(tmp_path, [every_kind()[-1]])
    assert len(found.Images("logits/val/figure")) == 1
    assert plt.get_fignums() == []


def test_a_figure_without_matplotlib_is_a_remark(tmp_path, caplog):
    def missing():
        raise ImportError("No module named 'matplotlib'")

    figure = type(every_kind()[-1])(tag="f", step=1, factory=missing)
    assert written(tmp_path, [figure], [figure]).Tags()["images"] == []
    assert [record.message for record in caplog.records] == [
        "TensorBoard: figures are not shown, No module named 'matplotlib'"
    ]


def test_the_meaning_and_axes_are_on_the_first_value_of_a_tag(tmp_path):
    found = written(tmp_path, [reliability(step=1)], [reliability(step=2)])
    assert found.SummaryMetadata("calibration/val/reliability").summary_description == (
        "accuracy against confidence; x: confidence, y: accuracy; in fraction"
    )
    values = [value for event in events(tmp_path) for value in event.summary.value]
    assert [bool(value.metadata.summary_description) for value in values] == [True, False]


def test_the_dashboard_comes_with_the_report_that_first_fills_it(tmp_path):
    range_of = {f"logits/train/{name}": 0.0 for name in ("mean", "min", "max")}
    reports = [[Scalars(values=range_of, step=step)] for step in (1, 2, 3)]
    found = written(tmp_path, *reports, [Scalars(values={"logits/val/entropy": 1.0}, step=3)])
    assert [event.step for event in found.Tensors("custom_scalars__config__")] == [1, 3]
    layout = layout_of(found)
    assert [category.title for category in layout.category] == ["Range of the logits", "Logits: val"]
    series = layout.category[0].chart[0].margin.series[0]
    assert (series.value, series.lower, series.upper) == ("logits/train/mean", "logits/train/min", "logits/train/max")
    assert list(layout.category[1].chart[0].multiline.tag) == [r"logits/val/entropy(/dataloader_idx_\d+)?$"]


def test_a_prefix_reaches_every_tag_and_the_dashboard(tmp_path):
    found = written(tmp_path, every_kind(), prefix="run.1-")
    tags = {tag for kind in ("scalars", "histograms", "images", "tensors") for tag in found.Tags()[kind]}
    assert all(tag.startswith("run.1-") for tag in tags - {"custom_scalars__config__"})
    assert layout_of(found).category[0].chart[0].multiline.tag[0].startswith(r"run\.1\-logits/val/entropy")


@pytest.mark.parametrize("loggers", [pytorch_lightning.loggers, lightning.pytorch.loggers])
def test_the_logger_of_either_namespace_is_written_to_beside_its_own_metrics(tmp_path, loggers):
    logger = loggers.TensorBoardLogger(str(tmp_path), prefix="mine")
    (sink,) = open_sinks([logger], None)
    assert isinstance(sink, TensorBoardSink)
    sink.write([Scalars(values={"a": 1.0}, step=1)])
    logger.log_metrics({"loss": 0.5}, step=1)
    sink.close()
    logger.finalize("success")
    found = accumulated(logger.log_dir)
    assert {"mine-a", "mine-loss"} <= set(found.Tags()["scalars"])


def test_a_writer_closed_between_two_fits_is_written_to_again(tmp_path):
    writer = SummaryWriter(str(tmp_path))
    sink = TensorBoardSink(writer)
    for step in (1, 2):
        sink.write([Scalars(values={"a": 1.0}, step=step)])
        assert "write" in vars(writer._get_file_writer().event_writer._async_writer._writer)
        sink.close()
        writer.close()
        sink.close()
    steps = [event.step for event in events(tmp_path) if event.HasField("summary")]
    assert sorted(steps) == [1, 2]


def test_a_disk_without_room_is_left_to_the_writers_owner(tmp_path):
    with small_disk(tmp_path / "disk", f"size={RESERVE + 2**20}") as disk:
        writer = SummaryWriter(str(disk / "run"))
        sink = TensorBoardSink(writer)
        sink.write([Scalars(values={"a": 1.0}, step=1)])
        (disk / "checkpoint").write_bytes(bytes(2**20))
        for step in range(100):
            with pytest.raises(OSError, match="less than 16 MiB left"):
                sink.write([Scalars(values={"a": 2.0}, step=step), *every_kind(step=step)])
        writer.add_scalar("theirs", 3.0, 1)
        (disk / "checkpoint").unlink()
        sink.write([Scalars(values={"a": 4.0}, step=2)])
        sink.close()
        writer.close()
        found = accumulated(disk / "run")
        assert [event.value for event in found.Scalars("a")] == [1.0, 4.0]
        assert [event.value for event in found.Scalars("theirs")] == [3.0]


def test_the_room_of_an_event_file_that_nears_its_limit_is_asked_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("logitwatch.sinks.tensorboard.require_room", asked.append)
    written(tmp_path, [Scalars(values={"a": 1.0}, step=1)])
    assert asked == [str(path) for path in tmp_path.glob("events.out.tfevents.*")]
