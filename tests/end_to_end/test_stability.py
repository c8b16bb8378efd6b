"""The stability guard in real runs: what it tells of runs that fail, and what it does where it is asked to."""

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import records
from helpers.models import NAMESPACES, cross_entropy_step, loader, model, namespace, trainer
from torch.utils.data import DataLoader

import logitwatch
from logitwatch.callbacks.faults import StabilityError
from logitwatch.capture.tap import Tap

L = namespace("pytorch_lightning")
BAD = 5  # the batch that is not finite
LATER = 800  # the step after which a run fails; a baseline is learnt in 512 looks or fewer
CALLS = []


def on_alert(run, module, alert):
    CALLS.append((run.global_step, alert.rule))


def with_a_bad_batch(module, batch, stage):
    module.batches += stage == "train"
    x = batch[0] * (float("nan") if stage == "train" and module.batches - 1 == BAD else 1.0)
    return F.cross_entropy(module.net(x), batch[1])


def fitted(lightning, callbacks, *, step=with_a_bad_batch, rows=160, **options):
    subject = model(lightning, step, batches=0)
    t = trainer(lightning, callbacks, log_every_n_steps=1, **options)
    t.fit(subject, loader(rows))
    return t, subject


def alerts(folder):
    return [(record["step"], record["rule"]) for record in records(folder) if record["kind"] == "alert"]


class Weights(L.Callback):
    """Weights and momenta after each step."""

    def __init__(self):
        self.kept = []

    def on_train_batch_end(self, run, module, outputs, batch, batch_idx):
        momenta = [state["momentum_buffer"].clone() for state in run.optimizers[0].state_dict()["state"].values()]
        self.kept.append([p.detach().clone() for p in module.parameters()] + momenta)


@pytest.mark.parametrize("name", NAMESPACES)
def test_a_step_that_is_not_finite_is_left_out_and_counted(name, tmp_path):
    weights = Weights()
    guard = logitwatch.StabilityGuard(every_n_steps=1, on_nonfinite="skip_step")
    t, subject = fitted(namespace(name), [guard, weights], folder=tmp_path)
    assert t.global_step == 10
    assert all(map(torch.equal, weights.kept[BAD], weights.kept[BAD - 1]))
    assert not all(map(torch.equal, weights.kept[BAD + 1], weights.kept[BAD]))
    assert all(p.isfinite().all() for p in subject.parameters())
    counted = {r["step"]: r["value"] for r in records(tmp_path) if r.get("tag") == "stability/train/skipped_steps"}
    assert counted == {step: float(step > BAD) for step in range(1, 10)}
    assert alerts(tmp_path) == [(BAD, "nonfinite")]
    assert not hasattr(t.optimizers[0], "found_inf")


def test_without_it_the_weights_are_lost():
    _, subject = fitted(L, [logitwatch.StabilityGuard(every_n_steps=1)])
    assert not any(p.isfinite().all() for p in subject.parameters())


@pytest.mark.parametrize("name", NAMESPACES)
@pytest.mark.parametrize("action", ["stop", "raise"])
def test_a_run_that_is_ended_has_told_why_and_is_let_go(name, action, tmp_path):
    lightning = namespace(name)
    guard = logitwatch.StabilityGuard(every_n_steps=1, on_nonfinite=action)
    subject = model(lightning, with_a_bad_batch, batches=0)
    t = trainer(lightning, [guard], folder=tmp_path, log_every_n_steps=1)
    if action == "raise":
        with pytest.raises(StabilityError, match="are not finite"):
            t.fit(subject, loader(160))
    else:
        t.fit(subject, loader(160))
    assert t.global_step == BAD + 1
    assert alerts(tmp_path) == [(BAD, "nonfinite")]
    assert Tap.of(subject).listener is None
    assert "training_step" not in vars(subject)
    assert guard.faults == 0


def test_a_checkpoint_and_a_call_at_an_alert(tmp_path):
    CALLS.clear()
    for action in ("checkpoint", f"{__name__}.on_alert"):
        fitted(L, [logitwatch.StabilityGuard(every_n_steps=1, on_nonfinite=action)], folder=tmp_path / action[-5:])
    (path,) = tmp_path.rglob("*.ckpt")
    assert path.name == f"nonfinite-step={BAD}.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == BAD + 1
    assert CALLS == [(BAD + 1, "nonfinite")]


def test_a_call_that_fails_is_a_fault_and_no_end():
    guard = logitwatch.StabilityGuard(every_n_steps=1, on_nonfinite="no.such.function")
    t, _ = fitted(L, [guard])
    assert t.global_step == 10
    assert guard.faults == 1


def shuffled_later(module, batch, stage):
    x, y = batch
    module.batches += stage == "train"
    y = y.roll(1) if stage == "train" and module.batches > LATER else y
    return F.cross_entropy(module.net(x), y)


def blind_later(module, batch, stage):
    module.batches += stage == "train"
    return F.cross_entropy(module.net(batch[0] * (module.batches <= LATER)), batch[1])


def large_later(module, batch, stage):
    module.batches += stage == "train"
    return F.cross_entropy(module.net(batch[0] * (40.0 if module.batches > LATER else 1.0)), batch[1])


FAILURES = {
    "labels": (shuffled_later, {"loss_spike"}),
    "one class": (blind_later, {"dominating_class", "loss_spike"}),
    "inputs": (large_later, {"logit_range", "loss_spike"}),
}


def long_run(step, folder, *, epochs=20):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = DataLoader(loader(800).dataset, batch_size=16, shuffle=True)
        subject = model(L, step, batches=0, lr=0.02)
        t = trainer(L, logitwatch.watch(every_n_steps=1), folder=folder, log_every_n_steps=10, max_epochs=epochs)
        t.fit(subject, data, loader(400, 200, start=1000))
    return [(at, rule) for at, rule in alerts(folder) if rule not in ("miscalibration", "calibration_overfitting")]


@pytest.mark.slow
def test_a_healthy_run_is_told_nothing(tmp_path):
    assert long_run(cross_entropy_step, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES)
def test_a_run_that_fails_is_told_so_within_twenty_steps_of_the_cause(failure, tmp_path):
    step, expected = FAILURES[failure]
    told = long_run(step, tmp_path)
    assert min(at for at, _ in told) >= LATER
    assert expected <= {rule for at, rule in told if at <= LATER + 20}
