"""Law 1: with the suite on, weights, gradients, optimizer, random numbers and the user's metrics keep every bit."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.models import cross_entropy_step, loader, model, namespace, net, trainer
from torch import nn
from torch.utils.data import DataLoader

import logitwatch

L = namespace("pytorch_lightning")


def random_state():
    return torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype(np.int64)), random.getstate()


@pytest.fixture
def _seeded():
    """The run draws from the global generators, as users' runs do; whatever state they had is put back."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    yield
    torch.set_rng_state(before[0])
    np.random.set_state(before[1])
    random.setstate(before[2])


def noisy_step(module, batch, stage):
    x, y = batch
    x = x + 0.1 * torch.from_numpy(np.random.randn(*x.shape)).float() * random.random()
    logits = module.net(x)
    loss = module.criterion(logits, y) if module.criterion is not None else F.cross_entropy(logits, y)
    module.log(f"{stage}_loss", loss, on_step=stage == "train", on_epoch=True)
    module.kept.append((stage, loss.detach().clone()))
    return {"loss": loss, "logits": logits} if module.returns_logits else loss


class Gradients(L.Callback):
    """Keeps the gradients of every step."""

    def __init__(self):
        self.kept = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.kept += [p.grad.clone() for p in module.parameters()]


def everything(callbacks, *, criterion=None, returns_logits=False, folder=None, **options):
    """Train with dropout, shuffling and noise; returns whatever a monitor might have disturbed."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    network = net(dropout=0.5)
    subject = model(L, noisy_step, network=network, criterion=criterion, kept=[], returns_logits=returns_logits)
    subject.answers = lambda batch: network(batch[0])
    gradients = Gradients()
    t = trainer(
        L, [gradients, *callbacks], folder=folder, max_epochs=2, num_sanity_val_steps=1, log_every_n_steps=2, **options
    )
    data = loader(128).dataset
    t.fit(subject, DataLoader(data, batch_size=16, shuffle=True), loader(32, start=200))
    torch_state, numpy_state, python_state = random_state()
    theirs = {name: value for name, value in t.callback_metrics.items() if "/" not in name}
    momenta = [s["momentum_buffer"] for s in t.optimizers[0].state_dict()["state"].values()]
    tensors = {
        "weights": list(subject.parameters()),
        "gradients": gradients.kept,
        "momenta": momenta,
        "losses": [loss for _, loss in subject.kept],
        "random": [torch_state, numpy_state],
        "metrics": [theirs[name] for name in sorted(theirs)],
    }
    return tensors, sorted(theirs), [stage for stage, _ in subject.kept], python_state


@pytest.mark.usefixtures("_seeded")
@pytest.mark.parametrize("criterion", [None, nn.CrossEntropyLoss(label_smoothing=0.1)], ids=["function", "module"])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}], ids=str)
@pytest.mark.parametrize("how", [{}, {"every_n_steps": 1, "rows": 4}], ids=["chosen", "every step"])
def test_a_watched_run_is_the_same_run(criterion, options, how, tmp_path):
    without = everything([], criterion=criterion, **options)
    probe = logitwatch.DropoutProbe(forward="answers", on_fault="raise")
    monitors = [*logitwatch.watch(**how), logitwatch.GradientMonitor(**how), logitwatch.Recalibrator(), probe]
    watched = everything(monitors, criterion=criterion, folder=tmp_path, **options)
    same(without, watched)


def same(without, watched):
    assert without[1:] == watched[1:]
    for name, tensors in without[0].items():
        assert len(tensors) == len(watched[0][name]) > 0
        for one, other in zip(tensors, watched[0][name], strict=True):
            assert torch.equal(one, other), name


@pytest.mark.usefixtures("_seeded")
@pytest.mark.parametrize("source", ["net.3", "cross_entropy"])
def test_a_run_with_a_named_source_and_returned_logits_is_the_same_run(source):
    without = everything([], returns_logits=True)
    same(without, everything(logitwatch.watch(every_n_steps=1, source=source), returns_logits=True))


@pytest.mark.usefixtures("_seeded")
def test_our_loss_lends_without_changing_its_value():
    from logitwatch.losses import CrossEntropyLoss, ZLoss

    without = everything([], criterion=CrossEntropyLoss() + ZLoss(0.01))
    same(without, everything(logitwatch.watch(every_n_steps=1), criterion=CrossEntropyLoss() + ZLoss(0.01)))


@pytest.mark.usefixtures("_seeded")
def test_a_monitor_that_fails_leaves_the_same_run():
    class Fails(logitwatch.LogitMonitor):
        def summary(self, *args, **kwargs):
            raise RuntimeError("boom")

    same(everything([]), everything([Fails(every_n_steps=1), logitwatch.CalibrationMonitor()]))


def test_no_logits_are_kept_past_the_step():
    import gc
    import weakref

    alive = []

    def step(module, batch, stage):
        logits = module.net(batch[0])
        gc.collect()
        # The step before may still be referred to by Lightning's own result; the one before that by nobody.
        assert all(reference() is None for reference in alive[:-2])
        alive.append(weakref.ref(logits))
        return F.cross_entropy(logits, batch[1])

    trainer(L, logitwatch.watch(every_n_steps=1)).fit(model(L, step), loader(160))
    gc.collect()
    assert len(alive) == 10
    assert all(reference() is None for reference in alive)


def test_the_module_is_left_as_it_was():
    subject = model(L, cross_entropy_step, criterion=nn.CrossEntropyLoss())
    before = set(vars(subject)) | {"_hparams"}  # Lightning's own, made when it asks a logger
    t = trainer(L, logitwatch.watch(every_n_steps=1))
    t.fit(subject, loader())
    assert set(vars(subject)) <= before
    assert not any(m._forward_hooks for m in subject.modules())
    assert subject.training_step.__func__ is type(subject).training_step
    assert list(subject.state_dict()) == list(model(L).state_dict())
