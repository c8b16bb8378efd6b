"""Law 6: on a step that is not reported the suite asks no device for a number and no rank for anything."""

import sys
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from helpers.models import cross_entropy_step, loader, model, namespace, trainer
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import logitwatch
from logitwatch.callbacks.session import Session
from logitwatch.capture.criteria import read_function
from logitwatch.capture.look import Level
from logitwatch.losses import CrossEntropyLoss, ZLoss

L = namespace("pytorch_lightning")
# What waits for an accelerator: a number read, or a tensor whose size depends on the values of another.
# On a CPU `numpy` is a look at memory; that no other device is asked is what the last test shows.
READS = {"item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__", "nonzero", "unique"}
SYNCING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "equal", "is_nonzero"}
REPORT_EVERY = 10


def is_ours():
    """Whether the innermost caller outside torch is the suite: the step of the user runs inside a wrapper of ours.

    A loss is the user's computation; on a CPU it looks whether its value is finite.
    """
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("torch.") and name != __name__:
            return name.startswith("logitwatch") and not name.startswith("logitwatch.losses")
        frame = frame.f_back
    return False


class Census(TorchDispatchMode):
    """Counts operators of the suite by step, and copies from one device to another."""

    def __init__(self, where):
        super().__init__()
        self.where, self.found = where, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if is_ours():
            counter = self.found.setdefault(self.where(), Counter())
            counter[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


class Reads(TorchFunctionMode):
    """Counts what is asked of tensors in Python; a list of a CPU tensor is made without any operator."""

    def __init__(self, where):
        super().__init__()
        self.where, self.found = where, {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in READS and is_ours():
            self.found.setdefault(self.where(), Counter())[name] += 1
        return func(*args, **(kwargs or {}))


def criterion_step(module, batch, stage):
    return module.criterion(module.net(batch[0]), batch[1])


def observed_step(module, batch, stage):
    logits = module.net(batch[0])
    logitwatch.observe(logits, batch[1])
    return logits.square().mean()


def masked_step(module, batch, stage):
    logits = module.net(batch[0]).clone()
    logits[:, 0] = -torch.inf  # an absent class takes the careful way
    logits[0, 1] = torch.nan
    logitwatch.observe(logits.detach(), batch[1])
    return cross_entropy_step(module, batch, stage)


STEPS = {
    "function": (cross_entropy_step, None),
    "module": (criterion_step, nn.CrossEntropyLoss()),
    "ours": (criterion_step, CrossEntropyLoss() + ZLoss(1e-4)),
    "observed": (observed_step, None),
    "masked": (masked_step, None),
}


@pytest.mark.parametrize("how", STEPS)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_steps_that_are_not_reported_read_no_number(how, precision):
    step, criterion = STEPS[how]
    subject = model(L, step, criterion=criterion)
    t = trainer(
        L,
        logitwatch.watch(every_n_steps=1, rows=5),
        precision=precision,
        log_every_n_steps=REPORT_EVERY,
        max_epochs=1,
        logger=False,
    )

    def where():
        return ("val" if t.validating or t.evaluating else "train", t.global_step)

    with Census(where) as census, Reads(where) as reads:
        t.fit(subject, loader(16 * 35))
    looked = {step for _, step in census.found}
    assert looked == set(range(36))  # the suite worked on every step, so there was something to be counted
    for (_, at), counter in census.found.items():
        if (at % REPORT_EVERY or at == 0) and at < 35:
            assert sorted(SYNCING & set(counter)) == [], at
            assert "all_reduce_" not in counter
    for (_, at), counter in reads.found.items():
        assert (at % REPORT_EVERY == 0 and at > 0) or at >= 35, (at, counter)
    # The census can see: on the steps that are reported numbers are read.
    assert any(at % REPORT_EVERY == 0 for _, at in reads.found)


def test_on_another_device_no_number_is_read_at_all():
    # Tensors on the meta device have no values, so whoever reads one raises where an accelerator would be waited for.
    class Stub:
        global_step, log_every_n_steps, sanity_checking, is_global_zero = 0, 10, False, True
        loggers = ()

    subject, stub = model(L), Stub()
    monitors = stub.callbacks = [
        logitwatch.LogitMonitor(every_n_steps=1, rows=10**9, on_fault="raise"),
        logitwatch.CalibrationMonitor(every_n_steps=1, rows=10**9, on_fault="raise"),
    ]
    session, _ = [Session.join(stub, subject, monitor) for monitor in monitors]
    session.tap.generator = lambda device: torch.Generator()  # none can be made for this device; no row is drawn
    try:
        for stub.global_step in range(5):
            look = session.wants("train", (), {})
            z, y = torch.empty(16, 10, device="meta"), torch.empty(16, dtype=torch.long, device="meta")
            loss = F.cross_entropy(z, y)
            look.add(Level.FUNCTION, read_function(F.cross_entropy, (z, y), {}, loss))
            look.finish(loss)
            session.receive(look)
        assert session.faults.count == 0
    finally:
        session.tap.detach()
