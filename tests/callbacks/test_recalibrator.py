import inspect
import json

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import joined, last, scalars, texts
from helpers.models import NAMESPACES, loader, model, namespace, trainer

import logitwatch
from logitwatch.calibrators import TemperatureScaling
from logitwatch.callbacks.recalibrator import Recalibrator
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.observation import Observation
from logitwatch.sinks.readings import Alert, Figure
from logitwatch.testing import check_monitor

L = namespace("pytorch_lightning")


def sure_step(module, batch, stage):
    """A net that is right as often as others, and eight times as sure."""
    x, y = batch
    logits = module.net(x)
    logitwatch.observe(8 * logits, y)
    module.record(stage, 8 * logits, y)
    return F.cross_entropy(logits, y)


def fit(folder, callbacks, lightning=L, step=sure_step, **options):
    subject = model(lightning, step)
    t = trainer(lightning, callbacks, folder=folder, **options)
    t.fit(subject, loader(300, 16), loader(300, 50, start=300))
    return t, subject


def test_it_is_a_good_monitor():
    check_monitor(Recalibrator)


@pytest.mark.parametrize("lightning", [namespace(name) for name in NAMESPACES], ids=NAMESPACES)
def test_an_over_confident_net_is_mended_and_the_numbers_say_so(lightning, tmp_path):
    recalibrator = Recalibrator()
    t, subject = fit(tmp_path, [recalibrator], lightning)
    z, y = joined(subject.recorded["val"])
    expected = TemperatureScaling().fit(z, y).temperature
    assert recalibrator.calibrator.temperature == pytest.approx(float(expected), rel=1e-6)
    said = {tag.split("/")[-1]: value for tag, value in last(tmp_path).items() if tag.startswith("recalibration/val/")}
    assert said["rows"] == 300
    assert said["temperature"] == pytest.approx(float(expected), rel=1e-6)
    assert said["ece_after"] < 0.5 * said["ece_before"]
    assert said["nll_before"] == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-6)
    assert said["nll_after"] < said["nll_before"]
    assert t.callback_metrics["recalibration/val/nll_after"].item() == pytest.approx(said["nll_after"], rel=1e-6)
    for name in (*said, "diagram"):
        assert f"``{name}``" in inspect.getdoc(Recalibrator), name
    assert t.lightning_module is subject


def test_every_validation_fits_anew_and_only_to_its_own_rows(tmp_path):
    recalibrator = Recalibrator()
    _, subject = fit(tmp_path, [recalibrator], max_epochs=3)
    z, y = joined(subject.recorded["val"][-6:])
    assert recalibrator.calibrator.temperature == pytest.approx(
        float(TemperatureScaling().fit(z, y).temperature), rel=1e-6
    )
    assert [value for _, value in scalars(tmp_path)["recalibration/val/rows"]] == [300, 300, 300]
    assert len({value for _, value in scalars(tmp_path)["recalibration/val/temperature"]}) == 3


def test_a_checkpoint_carries_the_calibrator_and_a_resumed_run_has_it(tmp_path):
    recalibrator = Recalibrator(calibrator="vector")
    t, subject = fit(tmp_path, [recalibrator])
    path = tmp_path / "saved.ckpt"
    t.save_checkpoint(path)
    z, _ = joined(subject.recorded["val"])
    for source in (path, str(path), torch.load(path, weights_only=True)):
        with torch.no_grad():
            assert torch.equal(Recalibrator.from_checkpoint(source)(z), recalibrator.calibrator(z))
    again = Recalibrator(calibrator="vector")
    seen = []

    class Looks(L.Callback):
        def on_train_batch_end(self, *args):
            seen.append(again.calibrator is not None)

    resumed = trainer(L, [again, Looks()], folder=tmp_path / "again", max_epochs=2)
    resumed.fit(model(L, sure_step), loader(300, 16), loader(300, 50, start=300), ckpt_path=str(path))
    assert seen
    assert all(seen)


def test_a_checkpoint_of_a_run_without_one_is_refused(tmp_path):
    t, _ = fit(tmp_path, logitwatch.watch(every_n_steps=1))
    t.save_checkpoint(tmp_path / "saved.ckpt")
    with pytest.raises(ValueError, match="carries no calibrator"):
        Recalibrator.from_checkpoint(tmp_path / "saved.ckpt")


def test_the_calibrator_is_there_after_the_fit_and_in_the_test_of_the_same_callback(tmp_path):
    recalibrator = Recalibrator()
    t, subject = fit(tmp_path, [recalibrator])
    fitted = recalibrator.calibrator
    t.test(subject, loader(32, start=700), verbose=False)
    assert recalibrator.calibrator is fitted


def test_rows_no_calibrator_can_be_fitted_to_are_a_note(tmp_path):
    subject = model(L)
    recalibrator = Recalibrator()
    one_class = loader(300, 50, start=300, targets=torch.zeros_like)
    trainer(L, [recalibrator], folder=tmp_path).fit(subject, loader(64), one_class)
    assert recalibrator.calibrator is None
    assert recalibrator.faults == 0
    (note,) = texts(tmp_path, "recalibration/val/note")
    assert "Nothing was fitted: expected rows of two classes or more" in note


def test_it_changes_nothing_of_the_cadence_of_others_and_alone_looks_at_no_training(tmp_path):
    fit(tmp_path / "both", [*logitwatch.watch(every_n_steps=4, budget=0.3), Recalibrator()], log_every_n_steps=1)
    fit(tmp_path / "one", logitwatch.watch(every_n_steps=4, budget=0.3), log_every_n_steps=1)
    assert scalars(tmp_path / "both")["logits/train/rows"] == scalars(tmp_path / "one")["logits/train/rows"]


def conflicting(rows=4000):
    """Half of the rows over-confident by far and seldom wrong, half under-confident: one temperature mends no bin."""
    generator = torch.Generator().manual_seed(0)
    z = torch.zeros(rows, 2)
    z[:, 1] = torch.where(torch.arange(rows) % 20 == 0, 12.0, 0.4)
    right = torch.where(z[:, 1] > 1, 0.7, 0.6)
    return z, torch.bernoulli(right, generator=generator).long()


def test_an_nll_that_falls_while_the_ece_rises_is_an_alert_raised_once():
    recalibrator = Recalibrator()
    z, y = conflicting()
    rules = []
    for _ in range(2):
        recalibrator.summary(*[Observation.of(z, y, stage="val")] * 2, None, histograms=False)
        readings = recalibrator.concluded(Tags("val"), 7)
        values = {tag.split("/")[-1]: value for tag, value in readings[0].values.items()}
        assert values["nll_after"] < values["nll_before"]
        assert values["ece_after"] > values["ece_before"]
        rules.append([reading.rule for reading in readings if isinstance(reading, Alert)])
    assert rules == [["recalibration_tradeoff"], []]


def test_a_recalibration_is_drawn_before_and_after():
    recalibrator = Recalibrator()
    seen = Observation.of(*conflicting(), stage="val")
    recalibrator.summary(seen, seen, None, histograms=False)
    (picture,) = [r for r in recalibrator.concluded(Tags("val"), 7) if isinstance(r, Figure)]
    assert picture.tag == "recalibration/val/diagram"
    drawn = picture.factory()
    assert "ECE" in drawn.axes[0].get_title(loc="left")


def test_only_validations_are_drawn_from():
    recalibrator = Recalibrator()
    for stage in ("train", "test", "predict"):
        seen = Observation.of(*conflicting(), stage=stage)
        recalibrator.summary(seen, seen, None, histograms=False)
        assert recalibrator.concluded(Tags(stage), 7) == []
    assert recalibrator.concluded(Tags("val"), 7) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibrator": "magic"}, "calibrator must be one of best, beta, .*, got 'magic'"),
        ({"folds": 1}, "folds must be >= 2, got 1"),
        ({"max_rows": 3}, "max_rows must be >= folds, 5, got 3"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recalibrator(**options)


def test_options_are_plain_and_its_memory_too():
    signature = inspect.signature(Recalibrator)
    assert all(p.kind is p.KEYWORD_ONLY for p in signature.parameters.values())
    json.dumps({name: p.default for name, p in signature.parameters.items()})
    assert Recalibrator().memory() == {}
