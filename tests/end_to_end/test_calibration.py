"""Calibration of a real run: what a validation says, what can be monitored, and what a resumed run goes on with."""

import logging

import pytest
import torch.nn.functional as F
from end_to_end.recomputed import joined, last, records, scalars
from helpers.models import loader, model, namespace, net, trainer

import logitwatch
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.temperature_grid import TemperatureGrid

L = namespace("pytorch_lightning")


def monitors():
    return logitwatch.watch(every_n_steps=1, rows=10**9)


def sure_step(module, batch, stage):
    """A net that is right as often as others, and eight times as sure."""
    x, y = batch
    logits = module.net(x)
    logitwatch.observe(8 * logits, y)
    return F.cross_entropy(logits, y)


def test_every_read_out_of_a_validation_is_that_of_its_rows(tmp_path):
    subject = model(L, network=net(scale=6.0))
    t = trainer(L, monitors(), folder=tmp_path)
    t.fit(subject, loader(64, 16), loader(90, 16, start=300))
    z, y = joined(subject.recorded["val"])
    sketch, temperatures = CalibrationSketch.of(z, y), TemperatureGrid.of(z, y)
    expected = {name: getattr(sketch, name)().item() for name in ("smooth_ece", "ks_error", "aurc", "debiased_ece")}
    expected |= {"adaptive_ece": sketch.adaptive_ece(15).item(), "refinement": temperatures.nll_at_optimum().item()}
    expected["gap"] = (sketch.mean_confidence() - sketch.accuracy()).item()
    reported = last(tmp_path)
    for name, value in expected.items():
        # float32 costs of rows, summed by batch
        assert reported[f"calibration/val/{name}"] == pytest.approx(value, rel=1e-5, abs=1e-7), name
        monitored = t.callback_metrics[f"calibration/val/{name}"].item()
        assert monitored == pytest.approx(value, rel=1e-5, abs=1e-7)  # Lightning keeps float32


def test_early_stopping_takes_refinement(tmp_path):
    stopping = L.callbacks.EarlyStopping(monitor="calibration/val/refinement", patience=1, min_delta=1e9)
    t = trainer(L, [*monitors(), stopping], folder=tmp_path, max_epochs=9)
    t.fit(model(L), loader(32, 16), loader(48, 16, start=300))
    assert t.current_epoch == 2  # nothing improves by 1e9
    assert stopping.best_score > 0


def test_an_over_confident_net_raises_an_alert_in_the_record_the_counts_and_the_log(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "logitwatch"):
        t = trainer(L, monitors(), folder=tmp_path, max_epochs=3)
        t.fit(model(L, sure_step), loader(300, 16), loader(300, 50, start=300))
    (alert,) = [r for r in records(tmp_path) if r["kind"] == "alert" and r["tag"] == "alerts/miscalibration"]
    assert "Over-confident" in alert["title"]
    assert "Recalibrator" in alert["text"]
    assert scalars(tmp_path)["alerts/miscalibration"] == [(alert["step"], 1.0)]
    assert len([r for r in caplog.records if "Over-confident" in r.getMessage()]) == 1


class Saves(L.Callback):
    """Keeps a checkpoint of each training epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_epoch_end(self, trainer, module):
        trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_resumed_run_says_the_same_and_repeats_no_alert(tmp_path, epoch):
    def run(folder, ckpt=None):
        callbacks = [*monitors(), Saves(tmp_path / folder)]
        t = trainer(L, callbacks, folder=tmp_path / folder, max_epochs=4, log_every_n_steps=5)
        t.fit(model(L, sure_step), loader(300, 16), loader(300, 50, start=300), ckpt_path=ckpt)

    run("whole")
    run("resumed", str(tmp_path / "whole" / f"{epoch}.ckpt"))
    whole, resumed = scalars(tmp_path / "whole"), scalars(tmp_path / "resumed")
    for tag in ("calibration/val/train_gap", "calibration/val/refinement"):
        assert resumed[tag] == [(step, value) for step, value in whole[tag] if step > 19 * (epoch + 1)], tag
    assert [step for step, _ in whole["alerts/miscalibration"]] == [19]
    assert "alerts/miscalibration" not in resumed
