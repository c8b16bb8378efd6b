"""A Trainer and a LightningCLI of either namespace take the callbacks, beside Lightning's own and with any logger."""

import importlib
import sys

import pytest
import torch
from end_to_end.recomputed import last, records, scalars
from helpers.models import NAMESPACES, loader, model, namespace, trainer

import logitwatch

pytestmark = pytest.mark.parametrize("lightning", [namespace(name) for name in NAMESPACES], ids=NAMESPACES)


@pytest.mark.parametrize(
    "callbacks",
    [
        logitwatch.watch,
        logitwatch.LogitMonitor,
        logitwatch.CalibrationMonitor,
        lambda: [logitwatch.LogitMonitor()],
        lambda: [logitwatch.CalibrationMonitor(), logitwatch.LogitMonitor()],
        lambda: [logitwatch.LogitMonitor(), logitwatch.LogitMonitor(source="net.3")],
        lambda: [logitwatch.LogitMonitor(), logitwatch.GradientMonitor()],
    ],
    ids=["watch", "bare logits", "bare calibration", "one in a list", "other order", "two of a kind", "gradients"],
)
def test_a_trainer_takes_them(lightning, callbacks, tmp_path):
    t = trainer(lightning, callbacks(), folder=tmp_path)
    t.fit(model(lightning), loader(), loader(32))
    assert any(tag.endswith("/val/accuracy") for tag in last(tmp_path))


@pytest.mark.parametrize("first", [True, False], ids=["monitors first", "monitors last"])
def test_early_stopping_and_checkpoints_follow_the_calibration(lightning, first, tmp_path):
    stopping = lightning.callbacks.EarlyStopping(monitor="calibration/val/ece", patience=0, mode="min", min_delta=10.0)
    best = lightning.callbacks.ModelCheckpoint(
        dirpath=tmp_path / "best", monitor="calibration/val/ece", filename="{step}", auto_insert_metric_name=False
    )
    monitors = logitwatch.watch(every_n_steps=2)
    callbacks = [*monitors, stopping, best] if first else [stopping, best, *monitors]
    t = trainer(lightning, callbacks, folder=tmp_path, max_epochs=5, enable_checkpointing=True)
    t.fit(model(lightning), loader(), loader(32))
    eces = [value for _, value in scalars(tmp_path)["calibration/val/ece"]]
    assert len(eces) == 2  # the second is no better by 10, so there is no third
    assert stopping.best_score.item() == pytest.approx(eces[0], rel=1e-6)  # float32 in callback_metrics
    assert best.best_model_score.item() == pytest.approx(min(eces), rel=1e-6)
    saved = torch.load(best.best_model_path, weights_only=True)
    assert {monitor.state_key for monitor in monitors} <= set(saved["callbacks"])


def test_monitored_metrics_leave_no_second_copy_in_the_logger(lightning, tmp_path):
    t = trainer(lightning, logitwatch.watch(), folder=tmp_path)
    t.fit(model(lightning), loader(), loader(32))
    assert "calibration/val/ece" in t.callback_metrics
    assert not [name for name in t.logged_metrics if name.startswith(("logits/", "calibration/"))]
    ece = [r for r in records(tmp_path) if r.get("tag") == "calibration/val/ece"]
    assert len(ece) == 1


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_evaluation_alone_is_watched_in_full(lightning, verb, tmp_path):
    subject = model(lightning)
    t = trainer(lightning, logitwatch.watch(rows=3), folder=tmp_path)
    quiet = {} if verb == "predict" else {"verbose": False}
    getattr(t, verb)(subject, loader(48), **quiet)
    stage = {"validate": "val", "test": "test", "predict": "predict"}[verb]
    assert last(tmp_path)[f"logits/{stage}/rows"] == 48
    assert ("calibration/" + stage + "/ece" in t.callback_metrics) == (verb != "predict")
    assert not [n for n in vars(subject) if n.endswith("_step")]


def test_fitting_twice_reports_twice(lightning, tmp_path):
    subject, monitors = model(lightning), logitwatch.watch(every_n_steps=1, rows=10**9)
    for run in ("one", "two"):
        trainer(lightning, monitors, folder=tmp_path / run).fit(subject, loader(), loader(32))
        assert last(tmp_path / run)["logits/train/rows"] == 64
    t = trainer(lightning, monitors, folder=tmp_path / "three")
    t.fit(subject, loader(), loader(32))
    t.fit_loop.max_epochs = 2
    t.fit(subject, loader(), loader(32))
    t.validate(subject, loader(48), verbose=False)
    reported = scalars(tmp_path / "three")
    assert reported["logits/train/rows"] == [(4, 64.0), (8, 64.0)]
    assert [value for _, value in reported["logits/val/rows"]] == [32.0, 32.0, 48.0]


def test_two_models_in_turn_do_not_mix(lightning, tmp_path):
    monitors = logitwatch.watch(every_n_steps=1, rows=10**9)
    for run, rows in (("one", 64), ("two", 32)):
        trainer(lightning, monitors, folder=tmp_path / run).fit(model(lightning), loader(rows))
        assert last(tmp_path / run)["logits/train/rows"] == rows


@pytest.mark.parametrize("options", [{"logger": False}, {"fast_dev_run": True}], ids=["no logger", "fast_dev_run"])
def test_without_a_logger_no_file_is_written_and_metrics_are_there(lightning, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    t = trainer(lightning, logitwatch.watch(every_n_steps=1), default_root_dir=str(tmp_path), **options)
    t.fit(model(lightning), loader(), loader(32))
    assert "calibration/val/ece" in t.callback_metrics
    assert list(tmp_path.rglob("*")) == []


def test_a_csv_logger_gets_the_scalars(lightning, tmp_path):
    t = trainer(lightning, logitwatch.watch(every_n_steps=1), folder=tmp_path, log_every_n_steps=1)
    t.fit(model(lightning), loader(), loader(32))
    (path,) = tmp_path.rglob("metrics.csv")
    header = path.read_text().splitlines()[0].split(",")
    assert {"logits/train/entropy", "calibration/val/ece", "logitwatch/overhead"} <= set(header)


def test_two_loggers_both_get_everything(lightning, tmp_path):
    loggers = [lightning.loggers.CSVLogger(str(tmp_path / name), name="run") for name in "ab"]
    trainer(lightning, logitwatch.watch(), logger=loggers).fit(model(lightning), loader(), loader(32))
    found = {path.read_text().splitlines()[0].split(",")[0] for path in tmp_path.rglob("metrics.csv")}
    assert len(list(tmp_path.rglob("metrics.csv"))) == 2
    assert len(found) == 1
    assert len(list(tmp_path.rglob("logitwatch.jsonl"))) == 1


YAML = """
seed_everything: false
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 1
  enable_progress_bar: false
  enable_model_summary: false
  enable_checkpointing: false
  logger:
    class_path: {namespace}.loggers.CSVLogger
    init_args: {{save_dir: {folder}, name: run}}
  callbacks:
    - class_path: logitwatch.LogitMonitor
      init_args: {{every_n_steps: 2, rows: 8, budget: 0.02, source: null, on_fault: raise}}
    - class_path: logitwatch.CalibrationMonitor
      init_args: {{num_bins: 10}}
"""


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_command_line_takes_them_from_yaml(lightning, tmp_path, monkeypatch):
    config = tmp_path / "run.yaml"
    config.write_text(YAML.format(namespace=lightning.__name__, folder=tmp_path))
    monkeypatch.setattr(sys, "argv", ["main", "fit", "--config", str(config)])

    class Digits(lightning.LightningDataModule):
        def train_dataloader(self):
            return loader()

        def val_dataloader(self):
            return loader(32)

    cli_of = importlib.import_module(f"{lightning.__name__}.cli").LightningCLI
    cli = cli_of(type(model(lightning)), Digits, save_config_callback=None)
    logits, calibration = (c for c in cli.trainer.callbacks if type(c).__module__.startswith("logitwatch."))
    assert (logits.every_n_steps, logits.rows, logits.budget, logits.on_fault) == (2, 8, 0.02, "raise")
    assert calibration.num_bins == 10
    assert last(tmp_path)["logits/val/rows"] == 32
