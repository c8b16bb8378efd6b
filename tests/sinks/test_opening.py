import importlib.metadata
import subprocess
import sys
from pathlib import Path

import lightning.pytorch.loggers
import pytest
import pytorch_lightning.loggers
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers.logger import DummyLogger

from logitwatch.sinks.jsonl import JsonlSink
from logitwatch.sinks.lightning import LightningSink
from logitwatch.sinks.memory import MemorySink
from logitwatch.sinks.opening import ENTRY_POINTS, log_folder, open_sinks
from logitwatch.sinks.tensorboard import TensorBoardSink

NAMESPACES = [pytorch_lightning.loggers, lightning.pytorch.loggers]


@pytest.mark.parametrize("loggers", NAMESPACES)
def test_each_logger_gets_its_sink_and_the_folder_the_lines(tmp_path, loggers):
    found = [loggers.TensorBoardLogger(str(tmp_path)), loggers.CSVLogger(str(tmp_path))]
    sinks = open_sinks(found, str(tmp_path / "x"))
    assert [type(sink) for sink in sinks] == [TensorBoardSink, LightningSink, JsonlSink]
    assert sinks[-1].path == str(tmp_path / "x" / "logitwatch.jsonl")
    found[0].experiment.close()


def test_dummies_have_no_sink():
    class SecondRank:
        experiment = pytorch_lightning.loggers.logger.DummyExperiment()

    assert open_sinks([DummyLogger(), SecondRank()], None) == []


def test_a_logger_without_an_experiment_still_gets_scalars(caplog):
    class Broken:
        @property
        def experiment(self):
            raise ConnectionError("no network")

    (sink,) = open_sinks([Broken()], None)
    assert isinstance(sink, LightningSink)
    assert "Broken has no experiment" in caplog.text


class Point:
    def __init__(self, name, factory):
        self.name, self.value, self._factory = name, f"package:{name}", factory

    def load(self):
        if self._factory is None:
            raise ImportError("gone")
        return self._factory


def registered(monkeypatch, *factories):
    points = [Point(f"sink{index}", factory) for index, factory in enumerate(factories)]
    monkeypatch.setattr("logitwatch.sinks.opening.entry_points", lambda group: points if group == ENTRY_POINTS else [])


def test_a_registered_sink_is_asked_before_ours(monkeypatch, tmp_path):
    mine = MemorySink()
    registered(monkeypatch, lambda logger: mine if type(logger).__name__ == "CSVLogger" else None)
    loggers = pytorch_lightning.loggers
    sinks = open_sinks([loggers.CSVLogger(str(tmp_path)), loggers.TensorBoardLogger(str(tmp_path))], None)
    assert sinks[0] is mine
    assert isinstance(sinks[1], TensorBoardSink)
    sinks[1]._writer.close()


def test_a_registered_sink_that_fails_costs_a_warning(monkeypatch, tmp_path, caplog):
    def failing(logger):
        raise RuntimeError("no")

    registered(monkeypatch, None, failing)
    (sink,) = open_sinks([pytorch_lightning.loggers.CSVLogger(str(tmp_path))], None)
    assert isinstance(sink, LightningSink)
    assert "could not be loaded" in caplog.text
    assert "a registered sink failed for CSVLogger" in caplog.text


def test_the_group_of_a_real_installation_is_read(tmp_path):
    info = tmp_path / "plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\nmine = plugin:make\n")
    (tmp_path / "plugin.py").write_text(
        "from logitwatch.sinks.memory import MemorySink\ndef make(logger):\n    return MemorySink()\n"
    )
    code = "from logitwatch.sinks import open_sinks; print(type(open_sinks([object()], None)[0]).__name__)"
    environment = {"PYTHONPATH": f"{Path.cwd()}:{tmp_path}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "MemorySink"
    assert importlib.metadata.entry_points(group="logitwatch.nothing") == ()


@pytest.mark.parametrize("loggers", NAMESPACES)
@pytest.mark.parametrize("version", [None, 3, "named"])
def test_the_folder_is_where_model_checkpoint_goes(tmp_path, loggers, version):
    logger = loggers.CSVLogger(str(tmp_path), name="digits", version=version)
    trainer = Trainer(logger=logger, default_root_dir=str(tmp_path), accelerator="cpu", enable_progress_bar=False)
    checkpoint = ModelCheckpoint()
    checkpoint.setup(trainer, None, "fit")
    assert f"{log_folder([logger])}/checkpoints" == checkpoint.dirpath


def test_there_is_no_folder_without_a_local_logger():
    class Remote:
        save_dir, name, version = "s3://bucket/logs", "n", 1

    class Nowhere:
        save_dir, name, version = None, "n", 1

    assert [log_folder(found) for found in ([], [Remote()], [Nowhere()], [DummyLogger()])] == [None] * 4


def test_importing_the_sinks_imports_no_backend():
    code = (
        "import sys, logitwatch.sinks;"
        "heavy = {'torch', 'numpy', 'tensorboard', 'wandb', 'matplotlib', 'lightning', 'pytorch_lightning'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
