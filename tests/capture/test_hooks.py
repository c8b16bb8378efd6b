import copy
import functools
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

from logitwatch.capture.hooks import (
    ForwardHook,
    StepWrapper,
    between_compiled_frames,
    directly,
    uncompiled,
    watching_compiler,
)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.calls = []

    def training_step(self, batch, batch_idx):
        self.calls.append(batch)
        return batch + 1


def watching(module):
    """A wrapped step and a hooked layer; returns what they saw."""
    seen = []

    def around(step, args, kwargs):
        seen.append("step")
        return step(*args, **kwargs)

    hook = ForwardHook(lambda *call: seen.append("layer"))
    handle = module.layer.register_forward_hook(hook, with_kwargs=True)
    return seen, StepWrapper(module, "training_step", around), handle


def test_a_step_is_seen_and_returns_what_it_returned():
    module = Model()
    seen, _, _ = watching(module)
    assert module.training_step(1, batch_idx=0) == 2
    assert seen == ["step"]


def test_a_hook_never_replaces_the_output():
    layer = nn.Linear(2, 2)
    x = torch.ones(1, 2)
    expected = layer(x)
    layer.register_forward_hook(ForwardHook(lambda *call: torch.zeros(7)), with_kwargs=True)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_watch_nothing_and_run_their_own_step(copied):
    module = Model()
    seen, _, _ = watching(module)
    clone = copied(module)
    assert clone.training_step(1, 0) == 2
    clone.layer(torch.ones(1, 2))
    assert seen == []
    assert (len(module.calls), len(clone.calls)) == (0, 1)
    assert clone.training_step.__self__ is clone


def test_a_module_saved_whole_is_loaded_without_a_watcher():
    module, file = Model(), io.BytesIO()
    watching(module)
    torch.save(module, file)
    file.seek(0)
    assert torch.load(file, weights_only=False).training_step(1, 0) == 2


def test_the_copied_wrapper_alone_is_the_step_of_its_module():
    module = Model()
    watching(module)
    assert copy.deepcopy(module.__dict__["training_step"])(1, 0) == 2
    assert len(module.calls) == 1


def test_removal_leaves_no_trace_and_may_be_repeated():
    module = Model()
    _, wrapper, handle = watching(module)
    for _ in range(2):
        wrapper.remove()
        handle.remove()
    assert "training_step" not in module.__dict__
    assert not module.layer._forward_hooks
    assert module.training_step.__func__ is Model.training_step


def shout(step):
    @functools.wraps(step)
    def shouted(*args, **kwargs):
        return 100 * step(*args, **kwargs)

    return shouted


def test_somebody_elses_wrapper_from_before_works_and_stays():
    module = Model()
    theirs = module.training_step = shout(module.training_step)
    seen, wrapper, _ = watching(module)
    assert module.training_step(1, 0) == 200
    assert seen == ["step"]
    wrapper.remove()
    assert module.training_step is theirs


def test_somebody_elses_wrapper_from_after_stays_and_sees_the_bare_step():
    module = Model()
    seen, wrapper, _ = watching(module)
    theirs = module.training_step = shout(module.training_step)
    assert module.training_step(1, 0) == 200
    wrapper.remove()
    wrapper.remove()
    assert module.training_step is theirs
    assert module.training_step(1, 0) == 200
    assert seen == ["step"]


class Theirs:
    """A wrapper of somebody else that can be copied."""

    def __init__(self, module):
        self.module = module

    def __call__(self, *args):
        return 100 * type(self.module).training_step(self.module, *args)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_keep_somebody_elses_wrapper(copied):
    module = Model()
    module.training_step = Theirs(module)
    seen, _, _ = watching(module)
    clone = copied(module)
    assert clone.training_step(1, 0) == 200
    assert seen == []
    assert len(clone.calls) == 1


def test_lightning_reads_the_signature_through_the_wrapper():
    module = Model()
    original = inspect.signature(module.training_step)
    watching(module)
    assert inspect.signature(module.training_step) == original
    assert module.training_step.__wrapped__.__code__ is Model.training_step.__code__


def test_lightning_looks_through_other_wrappers_too():
    # It takes one wrapper off and then compares code, so ours must not hide another that it would have taken off.
    module = Model()
    module.training_step = shout(module.training_step)
    watching(module)
    assert module.training_step.__wrapped__.__code__ is Model.training_step.__code__


def test_what_stands_between_compiled_frames_is_not_traced_and_what_it_calls_is():
    traced = []

    def step(x):
        traced.append(torch.compiler.is_compiling())
        return 2 * x

    @between_compiled_frames
    def around(x):
        call = directly if watching_compiler() is None else uncompiled
        traced.append(call(torch.compiler.is_compiling))
        call(traced.append, "ran")
        return step(x)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert torch.compile(lambda x: around(x), backend="aot_eager")(torch.ones(1)).item() == 2
    assert traced == [False, "ran", True]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert watching_compiler() is None
