"""A model whose loss never builds the logits is watched like any other, row by row."""

import pytest
import torch
from end_to_end.recomputed import expected_logits, joined, last, records, scalars, texts
from helpers.models import loader, model, namespace, trainer
from torch import nn

import logitwatch
from logitwatch.callbacks.recalibrator import Recalibrator
from logitwatch.losses import LinearCrossEntropyLoss, soft_cap_saturation

L = namespace("lightning.pytorch")
HIDDEN, CLASSES = 16, 10


def body():
    """Layers without a head."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, HIDDEN), nn.Tanh())


def criterion(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        loss = LinearCrossEntropyLoss(HIDDEN, CLASSES, **options)
    with torch.no_grad():
        loss.linear.weight.mul_(4)
    return loss


def step(module, batch, stage):
    x, y = batch
    hidden = module.net(x)
    with torch.no_grad():  # to be compared; the loss is given hidden states only
        module.record(stage, module.criterion.linear(hidden), y)
    return module.criterion(hidden, y)


def some_ignored(targets):
    targets = targets.clone()
    targets[::5] = -100
    return targets


def run(folder, *, monitors=None, **options):
    subject = model(L, step, network=body(), criterion=criterion(**options))
    monitors = logitwatch.watch(every_n_steps=1, rows=4) if monitors is None else monitors
    fit = trainer(L, monitors, folder=folder, log_every_n_steps=4, max_epochs=1)
    fit.fit(subject, loader(64, targets=some_ignored), loader(48, start=100))
    return subject


@pytest.mark.parametrize("options", [{}, {"logit_norm": 0.5}, {"bias": True, "z_loss": 1e-3}], ids=str)
def test_every_row_is_counted_without_logits(tmp_path, options):
    subject = run(tmp_path, **options)
    said = last(tmp_path)
    for stage, steps in (("train", 4), ("val", 3)):
        expected = expected_logits(*joined(subject.recorded[stage][-steps:]))
        for name, value in expected.items():
            # float32 rows, 4 significant steps of rounding more than float64
            assert said[f"logits/{stage}/{name}"] == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    assert said["logitwatch/coverage"] == 1.0  # though rows=4 of 16 were asked for: the others cost nothing
    assert said["logitwatch/faults"] == 0
    assert said["calibration/val/nll"] == pytest.approx(said["logits/val/nll"], rel=1e-5)
    (text,) = texts(tmp_path, "logitwatch/capture/train")
    assert "Watching `criterion` in train: logits (16, 10) float32, 16 rows" in text


def test_its_terms_and_histograms_are_reported(tmp_path):
    subject = run(tmp_path, z_loss=0.01)
    said = scalars(tmp_path)
    z, y = joined(subject.recorded["val"])
    penalty = 0.01 * z.logsumexp(-1).square().mean()
    assert said["losses/val/z_loss"][-1][1] == pytest.approx(penalty.item(), rel=1e-4)
    drawn = [r for r in records(tmp_path) if r["kind"] == "histogram" and r["tag"] == "logits/val/histogram"]
    assert sum(drawn[-1]["counts"]) == len(y) * CLASSES  # 16 rows a batch are fewer than the 64 that are shown


def test_a_calibrator_is_fitted_to_rows_whose_logits_were_made_for_it(tmp_path):
    recalibrator = Recalibrator(on_fault="raise")
    subject = run(tmp_path, monitors=[recalibrator])
    _, y = joined(subject.recorded["val"])
    assert last(tmp_path)["recalibration/val/rows"] == len(y)
    assert recalibrator.calibrator is not None


def test_watching_changes_no_weight(tmp_path):
    watched, alone = run(tmp_path, z_loss=1e-3), run(None, monitors=[], z_loss=1e-3)
    for one, other in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)


def test_its_cap_tells_how_many_logits_are_saturated(tmp_path):
    subject = run(tmp_path, soft_cap=0.5)
    said = last(tmp_path)
    for stage in ("train", "val"):
        z, y = joined(subject.recorded[stage])
        shares = [
            soft_cap_saturation(z, cap=0.5)[y != -100].mean().item()
            for z, y in zip(z.split(16), y.split(16), strict=True)
        ]
        assert 0.05 < sum(shares) / len(shares) < 0.95
        assert said[f"losses/{stage}/soft_cap_saturation"] == pytest.approx(sum(shares) / len(shares), rel=1e-5)
