import math

import lightning.pytorch.loggers
import numpy as np
import pytest
import pytorch_lightning.loggers
from helpers.reports import every_kind, histogram, reliability
from helpers.wandb_file import of_type, offline_wandb, read_wandb, rows, summary

from logitwatch.sinks.opening import open_sinks
from logitwatch.sinks.readings import Alert, Figure, Heatmap, Scalars, Table, Text
from logitwatch.sinks.wandb import WandbSink

wandb = pytest.importorskip("wandb")


class Run:
    """What a run is called with, and nothing else."""

    def __init__(self):
        self.rows, self.defined, self.alerts = [], [], []

    def log(self, data):
        self.rows.append(data)

    def define_metric(self, name, **how):
        self.defined.append((name, how))

    def alert(self, **alert):
        self.alerts.append(alert)


@pytest.fixture
def run():
    return Run()


def test_a_report_is_one_row_with_the_step_inside(run):
    WandbSink(run).write(
        [Scalars(values={"a": 1.0}, step=5), Scalars(values={"b": math.nan}, step=5), histogram(step=5)]
    )
    (row,) = run.rows
    assert row["trainer/global_step"] == 5
    assert set(row) == {"trainer/global_step", "a", "b", "logits/val/histogram"}


def test_steps_of_one_report_are_rows_of_their_own(run):
    WandbSink(run).write([Scalars(values={"a": float(step)}, step=step) for step in (1, 2, 1)])
    assert run.rows == [{"trainer/global_step": 1, "a": 1.0}, {"trainer/global_step": 2, "a": 2.0}]


def test_each_scalar_is_defined_once_by_its_exact_key(run):
    sink = WandbSink(run)
    tags = [
        "logits/val/max",
        "calibration/val/ece",
        "calibration/val/nll/dataloader_idx_1",
        "logits/val/entropy",
        "alerts/r",
    ]
    for step in (1, 2):
        sink.write([Scalars(values=dict.fromkeys(tags, 1.0), step=step), histogram(step=step)])
    x = {"step_metric": "trainer/global_step"}
    assert run.defined == [
        ("trainer/global_step", {}),
        ("logits/val/max", {**x, "summary": "max,last"}),
        ("calibration/val/ece", {**x, "summary": "min,last"}),
        ("calibration/val/nll/dataloader_idx_1", {**x, "summary": "min,last"}),
        ("logits/val/entropy", {**x, "summary": None}),
        ("alerts/r", {**x, "summary": "max,last"}),
    ]


def test_a_prefix_reaches_every_key_but_the_step(run):
    WandbSink(run, prefix="mine-").write(every_kind())
    assert all(key.startswith("mine-") for key in run.rows[0].keys() - {"trainer/global_step"})
    assert "trainer/global_step" in run.rows[0]


def test_a_fine_histogram_is_joined_to_what_wandb_takes(run):
    WandbSink(run).write([histogram(counts=[2] * 2000, edges=np.linspace(0, 1, 2001))])
    found = run.rows[0]["logits/val/histogram"]
    assert len(found.histogram) <= 512
    assert sum(found.histogram) == 4000
    assert found.bins[0] == 0.0
    assert found.bins[-1] == 1.0


def test_a_curve_has_its_reference_and_no_point_without_evidence(run):
    WandbSink(run).write([reliability()])
    chart = run.rows[0]["calibration/val/reliability"]
    assert chart.table.data == [
        [0.25, "accuracy", 0.2],
        [0.75, "accuracy", 0.7],
        [1.0, "accuracy", 0.9],
        [0.25, "reference", 0.25],
        [0.75, "reference", 0.75],
        [1.0, "reference", 1.0],
    ]
    assert chart.spec.split_table
    assert chart.spec.string_fields["xname"] == "confidence"


def test_an_older_wandb_without_split_tables_is_enough(run, monkeypatch):
    monkeypatch.setattr(wandb.plot, "line_series", lambda xs, ys, keys=None, title="", xname="x": (xs, ys))
    WandbSink(run).write([reliability()])
    assert run.rows[0]["calibration/val/reliability"][0] == [0.25, 0.75, 1.0]


def test_what_is_empty_is_left_out_and_said_once(run, caplog):
    sink = WandbSink(run)
    for _ in range(2):
        sink.write([histogram(counts=[0] * 4), reliability(weights=[0.0] * 4)])
    assert run.rows == []
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("level", "theirs"), [("info", "INFO"), ("warning", "WARN"), ("critical", "ERROR"), ("odd", "WARN")]
)
def test_an_alert_is_raised_with_its_level_and_logged_as_text(run, level, theirs):
    alert = Alert(rule="r", step=1, level=level, title="t" * 100, text="Do <b>.")
    WandbSink(run, alert_wait=60).write([alert])
    assert run.alerts == [{"title": "t" * 63, "text": "Do <b>.", "level": theirs, "wait_duration": 60}]
    assert "Do &lt;b&gt;." in run.rows[0]["alerts/r/text"].html


def test_text_cannot_become_a_page_with_scripts(run):
    WandbSink(run).write([Text(tag="t", step=1, markdown="<script src=x></script>")])
    page = run.rows[0]["t"].html
    assert "<script" not in page
    assert "&lt;script src=x&gt;" in page


def test_the_key_of_a_medium_stays_in_the_folder_of_the_run(run):
    WandbSink(run).write([Text(tag="../../x\\..\\y", step=1, markdown=""), Text(tag="..", step=1, markdown="")])
    assert run.rows[0].keys() == {"trainer/global_step", "x/y", "unnamed"}


def test_a_picture_without_its_library_is_a_remark(run, caplog):
    def missing():
        raise ImportError("No module named 'matplotlib'")

    sink = WandbSink(run)
    for _ in range(2):
        sink.write([Figure(tag="f", step=1, factory=missing), Scalars(values={"a": 1.0}, step=1)])
    assert [row.keys() for row in run.rows] == [{"trainer/global_step", "a"}] * 2
    assert [record.message for record in caplog.records] == [
        "W&B: each Figure is left out, No module named 'matplotlib'"
    ]


def test_heatmaps_and_tables_keep_their_labels(run):
    heat = Heatmap(tag="h", step=1, values=[[0.0, 1.0]], row_labels=["r"], column_labels=["a", "b"])
    WandbSink(run).write([heat, Table(tag="t", step=1, columns=["n"], rows=[[1], [2]])])
    assert run.rows[0]["h"]._caption == "rows: r; columns: a, b"
    assert run.rows[0]["t"].data == [[1], [2]]


@pytest.mark.parametrize("loggers", [pytorch_lightning.loggers, lightning.pytorch.loggers])
def test_a_real_offline_run_of_either_namespace_holds_everything(tmp_path, loggers):
    with offline_wandb(tmp_path):
        logger = loggers.WandbLogger(offline=True, save_dir=str(tmp_path), project="p", prefix="mine")
        (sink,) = open_sinks([logger], None)
        assert isinstance(sink, WandbSink)
        for step, ece in ((7, 0.5), (14, 0.75)):
            sink.write([*every_kind(step=step), Scalars(values={"calibration/val/ece": ece}, step=step)])
        logger.log_metrics({"loss": 1.0}, step=14)
        sink.close()

    records = read_wandb(tmp_path)
    first, second, theirs = rows(records)
    assert [row["trainer/global_step"] for row in (first, second, theirs)] == [7, 14, 14]
    assert first["mine-logits/val/entropy"] == 0.5
    assert first["mine-logits/val/histogram/values"] == [0, 1, 2, 0]
    assert first["mine-logits/val/histogram/bins"] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert {
        name: first[f"mine-{name}/_type"] for name in ("logits/val/heat", "logits/val/table", "alerts/saturation/text")
    } == {
        "logits/val/heat": "image-file",
        "logits/val/table": "table-file",
        "alerts/saturation/text": "html-file",
    }
    assert [(alert.title, alert.level) for alert in of_type(records, "alert")] == [("Logits tie", "ERROR")] * 2
    defined = {metric.name: metric for metric in of_type(records, "metric")}
    assert defined["mine-logits/val/entropy"].step_metric == "trainer/global_step"
    assert "mine-logits/val/histogram" not in defined
    last = summary(records)
    assert last["mine-calibration/val/ece"] == {"min": 0.5, "last": 0.75}
    assert last["mine-logits/val/max"] == {"max": 12.0, "last": 12.0}
    assert last["mine-logits/val/entropy"] == 0.5
    assert last["mine-logits/val/histogram"]["values"] == [0, 1, 2, 0]
