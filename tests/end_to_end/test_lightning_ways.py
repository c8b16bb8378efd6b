"""Ways a Trainer is used that a monitor must survive: tuners, evaluation between fits, copies, several criteria."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import last, scalars, texts
from helpers.event_files import accumulated
from helpers.models import loader, model, namespace, trainer
from torch import nn

import logitwatch
from logitwatch.losses import CrossEntropyLoss

L = namespace("pytorch_lightning")


@pytest.mark.parametrize("first", ["tuner", "monitors"])
def test_a_tuner_before_the_fit_leaves_the_whole_fit_to_be_watched(first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the finder keeps a checkpoint where it is
    finder = L.callbacks.LearningRateFinder(num_training_steps=10)
    monitors = logitwatch.watch(every_n_steps=5, rows=10**9)
    callbacks = [finder, *monitors] if first == "tuner" else [*monitors, finder]
    module = model(L)
    module.lr = 0.1
    t = trainer(L, callbacks, folder=tmp_path, max_epochs=1, log_every_n_steps=5)
    t.fit(module, loader(20 * 16))
    assert scalars(tmp_path)["logits/train/rows"] == [(5, 32.0), (10, 16.0), (15, 16.0)]


def test_state_a_validation_loaded_is_not_for_a_later_fit(tmp_path):
    checkpoint = tmp_path / "saved.ckpt"
    t = trainer(L, logitwatch.watch(every_n_steps=250))
    t.fit(model(L), loader(64))
    t.save_checkpoint(checkpoint)
    monitors = logitwatch.watch()
    t = trainer(L, monitors, folder=tmp_path)
    t.validate(model(L), loader(32), ckpt_path=checkpoint, verbose=False)
    t.fit(model(L), loader(12 * 16))
    assert scalars(tmp_path)["logits/train/rows"][0][0] == 8


def test_a_test_after_the_fit_keeps_the_charts_of_the_fit(tmp_path):
    logger = L.loggers.TensorBoardLogger(str(tmp_path), name="run", version=0)
    t = trainer(L, logitwatch.watch(every_n_steps=1), logger=logger)
    module = model(L)
    t.fit(module, loader(64), loader(32))
    t.test(module, loader(32), verbose=False)
    logger.experiment.close()
    layout = accumulated(tmp_path / "run" / "version_0").Tensors("custom_scalars__config__")[-1]
    text = layout.tensor_proto.string_val[0]
    assert all(f"Logits: {stage}".encode() in text for stage in ("train", "val", "test"))


def test_coverage_counts_a_step_once_however_often_it_calls_its_criterion(tmp_path):
    def step(module, batch, stage):
        logits = module.net(batch[0])
        return F.cross_entropy(logits[:8], batch[1][:8]) + F.cross_entropy(logits[8:], batch[1][8:])

    t = trainer(L, logitwatch.watch(every_n_steps=2, rows=4), folder=tmp_path, log_every_n_steps=1000)
    t.fit(model(L, step), loader(20 * 16))
    # half of the steps, and of each eight rows of sixteen
    assert last(tmp_path)["logitwatch/coverage"] == 0.25


class Copies(L.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        (monitor,) = [c for c in trainer.callbacks if isinstance(c, logitwatch.LogitMonitor)]
        self.copies = [copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))]


def test_a_monitor_is_copied_and_pickled_amid_a_run_without_the_run():
    copies = Copies()
    trainer(L, [logitwatch.LogitMonitor(every_n_steps=3), copies]).fit(model(L), loader(64))
    for other in copies.copies:
        assert other.every_n_steps == 3
        assert other._session is None
        assert other.state_dict()["cadence"]["every_n_steps"] == 3


def test_what_is_seen_and_not_followed_is_said_beside_what_is(tmp_path):
    def step(module, batch, stage):
        logits = module.net(batch[0])
        return module.main(logits, batch[1]) + module.aux(2 * logits, batch[1])

    module = model(L, step, main=nn.CrossEntropyLoss(), aux=nn.CrossEntropyLoss())
    trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path).fit(module, loader(32))
    (text,) = texts(tmp_path, "logitwatch/capture/train")
    assert text.startswith("Watching `main`")
    assert "not followed: `aux`" in text


def test_our_loss_works_under_per_sample_gradients():
    loss = CrossEntropyLoss()
    z, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    each = torch.func.vmap(torch.func.grad(lambda a, b: loss(a.unsqueeze(0), b.unsqueeze(0))))(z, y)
    expected = z.softmax(-1) - F.one_hot(y, 3)
    torch.testing.assert_close(each, expected, rtol=0, atol=1e-6)
