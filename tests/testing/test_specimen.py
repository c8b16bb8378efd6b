import copy
import pickle

import pytest
import torch
from helpers.models import NAMESPACES, namespace

import logitwatch
from logitwatch.sinks.memory import MemorySink
from logitwatch.testing.specimen import fit_with, loader, module, odd_batches, odd_step, rows, step, train, trainer


@pytest.mark.parametrize("name", NAMESPACES)
def test_it_trains_in_either_namespace(name):
    used = train([], lightning=namespace(name))
    assert type(used).__module__.startswith(name)
    assert used.global_step == 8
    assert {"train_loss", "val_loss"} <= set(used.callback_metrics)


def test_there_is_something_to_learn():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        used = train([], max_epochs=20)
    x, y = rows(200, seed=5)
    with torch.no_grad():
        right = (used.lightning_module.eval()(x).argmax(-1) == y).sum()
    assert right > 1.2 * y.bincount().max()  # more than whoever says the most frequent class


def test_it_has_all_that_a_monitor_might_disturb():
    used = train([])
    subject = used.lightning_module
    assert dict(subject.named_buffers())
    assert any(isinstance(part, torch.nn.Dropout) for part in subject.modules())
    assert used.optimizers[0].state
    assert used.lr_scheduler_configs


@pytest.mark.parametrize("source", ["criterion", "head", "cross_entropy"])
def test_a_monitor_finds_each_of_its_sources_by_name(source):
    used = train([logitwatch.LogitMonitor(source=source, every_n_steps=1, on_fault="raise")])
    assert used.callback_metrics["logits/val/rows"] == 32


def test_copies_and_pickles_bring_a_fresh_one():
    subject = train([]).lightning_module
    for again in (copy.deepcopy(subject), pickle.loads(pickle.dumps(subject))):
        assert type(again).__name__ == "Specimen"
        assert again is not subject


@pytest.mark.parametrize("kind", odd_batches())
def test_an_odd_batch_is_odd_and_the_loss_is_not(kind):
    z, y = torch.randn(16, 5, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 5
    odd_z, odd_y = odd_batches()[kind](z.clone(), y)
    assert not (odd_z.dtype == z.dtype and torch.equal(odd_z, z) and torch.equal(odd_y, y))
    used = train([], step=odd_step(kind))
    assert used.global_step == 8
    assert used.callback_metrics["val_loss"].isfinite()


@pytest.mark.parametrize("source", ["observe", "criterion", "outputs"])
def test_every_source_sees_the_odd_batch(source, monkeypatch):
    kept = MemorySink()
    monkeypatch.setattr("logitwatch.callbacks.outlet.open_sinks", lambda *_: [kept])
    used = trainer([logitwatch.LogitMonitor(source=source, every_n_steps=1, on_fault="raise")])
    used.fit(module(step=odd_step("NaN")), loader())
    assert kept.history["logits/train/nonfinite"][-1][1] == 2 * kept.history["logits/train/rows"][-1][1] / 16 > 0


def test_acting_after_each_step():
    steps = []
    fit_with(logitwatch.LogitMonitor(), lambda trainer: steps.append(trainer.global_step))
    assert steps == list(range(1, 9))


def test_a_step_may_be_another():
    stages = set()

    def noting(module, batch, stage):
        stages.add(stage)
        return step(module, batch, stage)

    used, subject = trainer([]), module(step=noting)
    used.fit(subject, loader(), loader())
    used.test(subject, loader(), verbose=False)
    used.predict(subject, loader())
    assert stages == {"train", "val", "test", "predict"}
