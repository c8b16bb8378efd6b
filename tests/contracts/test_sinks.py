"""What every sink promises, run over each of them with a real backend behind it."""

import contextlib
import math

import pytest
from helpers.reports import every_kind, histogram, reliability
from helpers.wandb_file import offline_wandb
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from logitwatch.sinks.jsonl import JsonlSink
from logitwatch.sinks.lightning import LightningSink
from logitwatch.sinks.memory import MemorySink
from logitwatch.sinks.opening import open_sinks
from logitwatch.sinks.protocol import Sink
from logitwatch.sinks.readings import Alert, Heatmap, Scalars, Table, Text
from logitwatch.sinks.tensorboard import TensorBoardSink


@contextlib.contextmanager
def memory(folder):
    yield MemorySink()


@contextlib.contextmanager
def jsonl(folder):
    sink = JsonlSink(folder / "logitwatch.jsonl")
    yield sink
    sink.close()


@contextlib.contextmanager
def tensorboard(folder):
    writer = SummaryWriter(str(folder))
    yield TensorBoardSink(writer)
    writer.close()


@contextlib.contextmanager
def tensorboard_logger(folder):
    logger = TensorBoardLogger(str(folder), prefix="mine")
    yield open_sinks([logger], None)[0]
    logger.experiment.close()


@contextlib.contextmanager
def csv(folder):
    logger = CSVLogger(str(folder))
    yield LightningSink(logger)
    logger.save()


@contextlib.contextmanager
def wandb(folder):
    with offline_wandb(folder):
        run = pytest.importorskip("wandb").init(project="p")
        yield open_sinks([type("Logger", (), {"experiment": run})()], None)[0]


SINKS = [memory, jsonl, tensorboard, tensorboard_logger, csv, wandb]


@pytest.fixture(params=SINKS, ids=lambda opened: opened.__name__)
def sink(request, tmp_path):
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    with request.param(home) as opened:
        yield opened
    strays = [path for path in tmp_path.rglob("*") if path.is_file() and home not in path.parents]
    assert strays == []


def strange(tag, *, step=1):
    """Numbers that are not finite wherever a number may be."""
    nan, inf = math.nan, math.inf
    return [
        Scalars(values={f"{tag}/a": nan, f"{tag}/b": inf, f"{tag}/c": -inf}, step=step),
        histogram(f"{tag}/histogram", step=step, minimum=inf, maximum=-inf, total=nan, squares=inf),
        histogram(f"{tag}/empty", step=step, counts=[0] * 4, minimum=inf, maximum=-inf),
        reliability(f"{tag}/curve", step=step, y=[nan, 0.5, inf, 1.0], weights=[1.0, 0.0, 2.0, 3.0]),
        reliability(f"{tag}/no_points", step=step, x=[], y=[], weights=[], reference=[]),
        Heatmap(tag=f"{tag}/heat", step=step, values=[[nan, inf]], row_labels=["a"], column_labels=["b", "c"]),
        Heatmap(tag=f"{tag}/no_cells", step=step, values=[], row_labels=[], column_labels=[]),
        Table(tag=f"{tag}/table", step=step, columns=["a", "b"], rows=[["NaN", nan], ["x", -inf]]),
        Table(tag=f"{tag}/no_rows", step=step, columns=[], rows=[]),
        Text(tag=f"{tag}/text", step=step, markdown=""),
        Alert(rule="r", step=step, level="info", title="", text="", values={"v": nan}),
    ]


def test_all_promises_are_kept(sink, caplog, tmp_path_factory):
    """One test a sink, for a real backend takes seconds to open."""
    outside = tmp_path_factory.mktemp("outside") / "y"
    assert isinstance(sink, Sink)
    sink.write([])
    sink.write([Scalars(values={}, step=0)])
    for step in (1, 2, 3):
        sink.write(every_kind(step=step))
    remarks = [record.message for record in caplog.records if record.name == "logitwatch"]
    assert len(remarks) == len(set(remarks)), "what is degraded is announced once for each kind"
    sink.write(strange("odd", step=4))
    sink.write(strange("odd", step=5))
    for hostile in (
        "../../../x",
        str(outside),
        "a|b*c*`d`",
        "<script>alert(1)</script>",
        "",
        "ünï/\u2028/\x00",
        "a\nb",
    ):
        sink.write(strange(hostile, step=6))
        sink.write(every_kind(root=hostile, step=6))
    sink.close()
    sink.close()
    sink.write(every_kind(step=7))
    sink.close()
    assert not outside.exists()
