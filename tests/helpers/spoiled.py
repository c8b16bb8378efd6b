"""Runs whose logits are spoiled before they are handed over, and what the record must then say of every row."""

import functools
import warnings
from types import SimpleNamespace

import torch
from end_to_end.recomputed import last
from helpers.models import loader, model, namespace, trainer

import logitwatch
from logitwatch.capture.observation import Observation

L = namespace("pytorch_lightning")
ROWS, CLASSES = 16, 10
COUNTS = ("rows", "nonfinite", "ignored", "bad_target")


def batch(rows=ROWS, classes=CLASSES, *, seed=0):
    return 4 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def labels(rows=ROWS, classes=CLASSES):
    return torch.arange(rows) % classes


def summary(z, y=None, **options):
    """The state of `LogitMonitor` after one look at every row."""
    seen = Observation.of(z, labels(len(z), z.shape[-1]) if y is None else y, **options)
    state = logitwatch.LogitMonitor().summary(seen, seen, None, histograms=True)
    accounted(state)
    return state


def sketch(z, y, **options):
    """The sketch of `CalibrationMonitor` after one look at every row; None where it says nothing."""
    seen = Observation.of(z, y, **options)
    state = logitwatch.CalibrationMonitor().summary(seen, seen, None, histograms=True)
    return None if state is None else state.sketch


def accounted(state):
    """The row counts of a state, after law 2: each row is in exactly one of them."""
    parts = (state.counted, state.nonfinite, state.ignored, state.bad_target)
    assert int(state.seen) == sum(map(int, parts))
    return {"rows": int(state.seen)} | {name: int(getattr(state, name)) for name in COUNTS[1:]}


def read_outs(state):
    """Every number `LogitMonitor` would log of a state, by its name."""
    monitor = logitwatch.LogitMonitor()
    tags = lambda family, name: name  # noqa: E731 - two arguments, of which one counts
    return monitor.readings(state, tags, 0)[0].values


def run(spoil, folder, *, way="observe"):
    """Train and validate with ``spoil(logits, targets)`` handed over; the run must be the one nobody watches.

    Returns:
        ``faults``, ``record`` (the last value of each tag) and ``given`` (what was handed over, by stage).
    """
    given = {"train": [], "val": []}

    def step(module, pair, stage):
        z, loss = _plain_step(module, pair)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, that what is made here is young or old
            call = spoil(z.detach().clone(), pair[1].clone())
        given[stage].append(call)
        if way == "outputs":
            return {"loss": loss, "logits": call[0], "targets": call[1]}
        logitwatch.observe(*call)
        return loss

    monitors = logitwatch.watch(every_n_steps=1, rows=10**9)
    subject = model(L, step)
    t = trainer(L, monitors, folder=folder, log_every_n_steps=1000)
    t.fit(subject, loader(64), loader(32))
    assert t.state.finished
    for found, expected in zip(subject.parameters(), _unwatched(), strict=True):
        assert torch.equal(found, expected)
    return SimpleNamespace(faults=monitors[0].faults, record=last(folder), given=given)


def recounted(calls):
    """The row counts again, of class indices and in plain float64."""
    counts = dict.fromkeys(COUNTS, 0)
    for z, y in calls:
        z, y = z.double().reshape(-1, z.shape[-1]), y.reshape(-1)
        finite = z.amax(-1).isfinite()
        ignored = finite & (y == -100)
        bad = finite & ~ignored & ((y < 0) | (y >= z.shape[-1]))
        for name, part in zip(COUNTS, (torch.ones_like(finite), ~finite, ignored, bad), strict=True):
            counts[name] += int(part.sum())
    return counts


def told(caplog):
    """What the suite said of faults: the error that came with the first of a kind, and the words of the others."""
    return [r for r in caplog.records if r.name == "logitwatch" and r.module == "faults"]


def _plain_step(module, pair):
    """Logits and a loss that no criterion made, so that what is handed over is all there is to see."""
    z = module.net(pair[0])
    return z, (z.logsumexp(-1) - z.gather(-1, pair[1].unsqueeze(-1)).squeeze(-1)).mean()


@functools.cache
def _unwatched():
    subject = model(L, lambda module, pair, stage: _plain_step(module, pair)[1])
    trainer(L, []).fit(subject, loader(64), loader(32))
    return [p.detach().clone() for p in subject.parameters()]
