import csv

import lightning.pytorch.loggers
import pytest
import pytorch_lightning.loggers
from helpers.reports import every_kind

from logitwatch.sinks.lightning import LightningSink
from logitwatch.sinks.readings import Scalars


@pytest.mark.parametrize("loggers", [pytorch_lightning.loggers, lightning.pytorch.loggers])
def test_a_csv_logger_of_either_namespace_gets_the_scalars(tmp_path, loggers):
    logger = loggers.CSVLogger(str(tmp_path), prefix="mine")
    sink = LightningSink(logger)
    for step in (1, 2):
        sink.write([Scalars(values={"a": step / 2, "b": 5.0}, step=step)])
    # Each report is on disk at once: a run that is killed has told what it told.
    (path,) = tmp_path.rglob("metrics.csv")
    with open(path) as file:
        found = list(csv.DictReader(file))
    assert [(row["step"], row["mine-a"], row["mine-b"]) for row in found] == [("1", "0.5", "5.0"), ("2", "1.0", "5.0")]


class Recorder:
    def __init__(self):
        self.calls = []

    def log_metrics(self, metrics, step):
        self.calls.append((step, metrics))


def test_one_call_carries_the_scalars_of_a_step():
    logger = Recorder()
    LightningSink(logger).write(
        [Scalars(values={"a": 1.0}, step=1), Scalars(values={"b": 2.0}, step=1), Scalars(values={"a": 3.0}, step=2)]
    )
    assert logger.calls == [(1, {"a": 1.0, "b": 2.0}), (2, {"a": 3.0})]


def test_what_is_not_shown_is_said_once_and_where_it_is(caplog):
    sink = LightningSink(Recorder())
    for step in (1, 2):
        sink.write(every_kind(step=step))
    said = [record.message for record in caplog.records]
    assert len(said) == len(set(said)) == 7
    assert all(line.startswith("Recorder: ") and "logitwatch.jsonl" in line for line in said)


def test_a_report_of_no_scalars_saves_nothing():
    class Saves(Recorder):
        def save(self):
            self.calls.append("save")

    logger = Saves()
    sink = LightningSink(logger)
    sink.write([Scalars(values={}, step=1)])
    sink.write([Scalars(values={"a": 1.0}, step=2)])
    assert logger.calls == [(2, {"a": 1.0}), "save"]
