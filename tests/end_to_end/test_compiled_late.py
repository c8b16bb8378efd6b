"""A step compiled when it is wrapped already: the user's code is compiled as it would be, and nothing of ours is."""

import pytest
import torch
import torch.nn.functional as F
from helpers.models import loader, model, namespace, trainer
from torch._dynamo.utils import counters

import logitwatch

L = namespace("pytorch_lightning")
STEPS, EVERY = 42, 3


class Compiles(L.Callback):
    """Compiles the step at the start of the training or at a batch; counts the graphs after each batch."""

    def __init__(self, when):
        self.when, self.graphs = when, []

    def on_train_start(self, trainer, module):
        self.compile(module, "start")

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.compile(module, batch_idx)

    def compile(self, module, now):
        if self.when == now:
            module.training_step = torch.compile(module.training_step, backend="aot_eager")

    def on_train_batch_end(self, *_):
        self.graphs.append(counters["stats"]["unique_graphs"])


class Keeps(L.Callback):
    """Copies what the step kept before backward."""

    def on_before_backward(self, trainer, module, loss):
        module.recorded["train"].append(module.kept.detach().clone())


class Copies(logitwatch.LogitMonitor):
    """Keeps a copy of every observation."""

    def __init__(self):
        super().__init__(every_n_steps=EVERY, rows=10**9, on_fault="raise")
        self.copies = {}

    def summary(self, observation, *args, **kwargs):
        self.copies[observation.step] = observation.logits.clone()
        return super().summary(observation, *args, **kwargs)


def step(module, batch, stage):
    module.kept = module.net(batch[0])
    return F.cross_entropy(module.kept, batch[1])


def run(when, monitors):
    torch._dynamo.reset()
    counters.clear()
    subject, compiles = model(L, step, kept=None), Compiles(when)
    trainer(L, [compiles, Keeps(), *monitors]).fit(subject, loader(16 * STEPS))
    return subject, compiles.graphs, sum(counters["graph_break"].values())


@pytest.mark.parametrize("when", ["start", 4])
def test_a_step_compiled_when_it_is_wrapped_is_seen_and_is_all_that_is_compiled(when):
    bare, _, _ = run(when, [])
    monitor = Copies()
    subject, graphs, breaks = run(when, [monitor])
    assert list(monitor.copies) == list(range(0, STEPS, EVERY))
    assert all(torch.equal(z, subject.recorded["train"][at]) for at, z in monitor.copies.items())
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), subject.parameters(), strict=True))
    # The step, looked at and not; and one break, where the compiler meets the wrapper.
    assert (graphs[10], graphs[-1], breaks) == (2, 2, 1)
