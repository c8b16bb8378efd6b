"""What fails of ours while the step of the user runs: the run goes on to the same weights, and the fault is counted."""

import pytest
import torch
import torch.nn.functional as F
from helpers.models import cross_entropy_step, loader, model, namespace, trainer
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

import logitwatch
from logitwatch.callbacks.session import Session
from logitwatch.capture import look as look_module
from logitwatch.capture import tap as tap_module
from logitwatch.capture.explicit import _receivers
from logitwatch.capture.look import CriterionMode, Look
from logitwatch.capture.tap import Tap
from logitwatch.losses import CrossEntropyLoss

L = namespace("pytorch_lightning")


def criterion_step(module, batch, stage):
    logits = module.net(batch[0])
    logitwatch.observe(2 * logits, batch[1])
    return module.criterion(logits, batch[1]) + CrossEntropyLoss()(logits, batch[1]) + F.cross_entropy(logits, batch[1])


class Refuses(nn.CrossEntropyLoss):
    """It says that it lends and cannot be asked."""

    ignore_index = -100

    def __getattr__(self, name):
        return None if name == "lent" else super().__getattr__(name)

    def __setattr__(self, name, value):
        if name == "lent":
            fails()
        super().__setattr__(name, value)


def fails(*args, **kwargs):
    raise RuntimeError("ours")


def enters_and_fails(mode):
    TorchFunctionMode.__enter__(mode)
    fails()


PLACES = {
    "the question whether to look": (Session, "wants", fails),
    "taking what was seen": (Session, "receive", fails),
    "beginning": (Tap, "_begin", fails),
    "whether to listen": (Tap, "_needs_mode", fails),
    "receiving": (tap_module, "receiving", fails),
    "the mode, made": (CriterionMode, "__init__", fails),
    "the mode, entered": (CriterionMode, "__enter__", fails),
    "the mode, entered half": (CriterionMode, "__enter__", enters_and_fails),
    "the mode, left": (CriterionMode, "finish", fails),
    "a function, read": (look_module, "read_function", fails),
    "a loss of ours, read": (look_module, "read_module", fails),
    "a criterion, read": (tap_module, "read_module", fails),
    "a call, noted": (Look, "add", fails),
    "what was returned": (look_module, "_returned", fails),
}


def train(folder, criterion, *, watched=True):
    module = model(L, criterion_step, criterion=criterion)
    monitors = logitwatch.watch(every_n_steps=1, source="criterion") if watched else []  # asked for: all is listened to
    trainer(L, monitors, folder=folder, log_every_n_steps=1).fit(module, loader(96))
    return module


def unharmed(module, plain):
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))
    assert _get_current_function_mode_stack() == []
    assert _receivers == []
    assert Tap.of(module)._look is None


def counted_and_told_once(caplog):
    said = [r.getMessage() for r in caplog.records if r.name == "logitwatch" and "capture failed" in r.getMessage()]
    assert ["counted" in text for text in said] == [True, False]
    assert "failed 3 times and is switched off" in said[1]


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, CrossEntropyLoss], ids=["torch's", "ours"])
def test_a_fault_amid_the_step_leaves_the_run_as_it_is(place, kind, tmp_path, monkeypatch, caplog):
    plain = train(None, kind(), watched=False)
    monkeypatch.setattr(*place)
    module = train(tmp_path, kind())
    unharmed(module, plain)
    assert getattr(module.criterion, "lent", None) is None
    counted_and_told_once(caplog)


def test_a_loss_that_cannot_be_asked_is_left_alone(tmp_path, caplog):
    plain = train(None, Refuses(), watched=False)
    unharmed(train(tmp_path, Refuses()), plain)
    counted_and_told_once(caplog)


def test_a_mode_the_step_leaves_open_stays_open_and_ours_is_closed():
    class Left(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    def step(module, batch, stage):
        if module.global_step == 2:
            left.__enter__()
        return cross_entropy_step(module, batch, stage)

    left = Left()
    try:
        trainer(L, logitwatch.watch(every_n_steps=1)).fit(model(L, step), loader(96))
        assert _get_current_function_mode_stack() == [left]
    finally:
        left.__exit__(None, None, None)
    assert _get_current_function_mode_stack() == []
