from types import SimpleNamespace

import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.outlet import Outlet
from logitwatch.sinks.jsonl import read_jsonl
from logitwatch.sinks.readings import Scalars

REPORT = [Scalars(values={"logits/val/max": 1.0}, step=3)]


class FullDisk:
    name, version, save_dir, experiment = "full", 0, None, object()

    def __init__(self) -> None:
        self.asked = 0

    def log_metrics(self, metrics, step):
        self.asked += 1
        raise OSError(28, "No space left on device")


def outlet(*loggers, rank_zero=True) -> Outlet:
    return Outlet(SimpleNamespace(is_global_zero=rank_zero, loggers=list(loggers)), Faults())


def test_a_report_reaches_the_record_beside_the_checkpoints(tmp_path):
    out = outlet(CSVLogger(str(tmp_path), name="run"))
    out.write(REPORT)
    out.close()
    records = list(read_jsonl(str(tmp_path / "run" / "version_0" / "logitwatch.jsonl")))
    assert [(r["tag"], r["value"], r["step"]) for r in records if r["kind"] == "scalar"] == [("logits/val/max", 1.0, 3)]


def test_a_sink_that_fails_is_left_alone_after_three_times_and_its_losses_are_counted(tmp_path, caplog):
    broken = FullDisk()
    out = outlet(TensorBoardLogger(str(tmp_path)), broken)
    for _ in range(5):
        out.write(REPORT)
    out.close()
    assert broken.asked == 3
    assert out.dropped == 5
    assert len([r for r in caplog.records if r.exc_info]) == 1
    written = list(read_jsonl(str(next(tmp_path.rglob("logitwatch.jsonl")))))
    assert len([r for r in written if r["kind"] == "scalar"]) == 5


def test_other_ranks_than_the_first_write_nothing(tmp_path):
    out = outlet(CSVLogger(str(tmp_path)), rank_zero=False)
    out.write(REPORT)
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize("times", [1, 2])
def test_closing_again_is_harmless(tmp_path, times):
    out = outlet(CSVLogger(str(tmp_path)))
    out.write(REPORT)
    for _ in range(times):
        out.close()


def test_a_logger_without_an_experiment_is_no_fault():
    class Plain:  # the Logger of Lightning asks for none
        def log_metrics(self, metrics, step):
            pass

    out = outlet(Plain())
    out.open()
    out.close()
    assert out._faults.count == 0
