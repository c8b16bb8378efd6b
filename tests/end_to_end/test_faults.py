"""Law 3: a monitor never ends a run, and a run that ends leaves nothing of a monitor behind."""

import logging

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import last, scalars
from helpers.models import cross_entropy_step, loader, model, namespace, trainer
from torch import nn

import logitwatch
from logitwatch.sinks.jsonl import JsonlSink

L = namespace("pytorch_lightning")


class Fails(logitwatch.LogitMonitor):
    calls = 0

    def summary(self, *args, **kwargs):
        type(self).calls += 1
        raise RuntimeError("boom")


class FailsToRead(logitwatch.LogitMonitor):
    calls = 0

    def readings(self, *args, **kwargs):
        type(self).calls += 1
        raise RuntimeError("boom")


@pytest.fixture(autouse=True)
def _forget_calls():
    Fails.calls = FailsToRead.calls = 0


def messages(caplog):
    """What the suite said, but for what a sink cannot show."""
    return [record for record in caplog.records if record.name == "logitwatch" and record.module != "notices"]


@pytest.mark.parametrize("kind", [Fails, FailsToRead])
def test_a_failing_monitor_is_switched_off_and_the_rest_goes_on(kind, tmp_path, caplog):
    t = trainer(L, [kind(every_n_steps=1), logitwatch.CalibrationMonitor()], folder=tmp_path, log_every_n_steps=1)
    t.fit(model(L), loader(160), loader(32))
    assert t.global_step == 10
    assert kind.calls == 3
    assert last(tmp_path)["logitwatch/faults"] == 3
    assert "calibration/val/ece" in last(tmp_path)
    first, off = messages(caplog)
    assert str(first.exc_info[1]) == "boom"
    assert f"{kind.__name__} failed 3 times and is switched off" in off.getMessage()


@pytest.mark.parametrize("kind", [Fails, FailsToRead])
def test_in_tests_a_fault_may_be_let_out(kind):
    with pytest.raises(RuntimeError, match="boom"):
        trainer(L, [kind(every_n_steps=1, on_fault="raise")], log_every_n_steps=1).fit(model(L), loader(160))


def test_a_failing_sink_is_switched_off_and_what_it_missed_is_counted(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(
        "logitwatch.sinks.lightning.LightningSink.write", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    t = trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path, log_every_n_steps=1)
    t.fit(model(L), loader(160), loader(32))
    assert last(tmp_path)["logitwatch/faults"] == 3
    assert last(tmp_path)["logitwatch/dropped"] > 3
    assert isinstance(messages(caplog)[0].exc_info[1], OSError)
    assert any("LightningSink failed 3 times" in record.getMessage() for record in messages(caplog))


def test_a_folder_that_cannot_be_written_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(JsonlSink, "_open", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    t = trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path, log_every_n_steps=1)
    t.fit(model(L), loader(160), loader(32))
    assert t.global_step == 10
    assert isinstance(messages(caplog)[0].exc_info[1], PermissionError)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_of_the_user_takes_every_hook_off_and_writes_what_is_known(error, tmp_path):
    def step(module, batch, stage):
        if module.global_step == 5:
            raise error("the user's")
        return cross_entropy_step(module, batch, stage)

    def step_of_module(module, batch, stage):
        module.criterion(module.net(batch[0]), batch[1])
        return step(module, batch, stage)

    subject = model(L, step_of_module, criterion=nn.CrossEntropyLoss())
    before = set(vars(subject)) | {"_hparams"}  # Lightning's own, made when it asks a logger
    t = trainer(L, logitwatch.watch(every_n_steps=1, rows=10**9), folder=tmp_path, log_every_n_steps=1000)
    with pytest.raises((error, SystemExit)):
        t.fit(subject, loader(160))
    assert set(vars(subject)) <= before
    assert subject.training_step.__func__ is type(subject).training_step
    assert not any(m._forward_hooks for m in subject.modules())
    assert torch.overrides._get_current_function_mode_stack() == []
    reported = scalars(tmp_path)
    assert reported["logits/train/rows"] == [(5, 80.0)]
    assert reported["calibration/train/nll"][0][0] == 5


def test_a_run_may_follow_one_that_failed(tmp_path):
    monitors = logitwatch.watch(every_n_steps=1, rows=10**9)

    def step(module, batch, stage):
        if module.fails:
            raise ValueError("the user's")
        return cross_entropy_step(module, batch, stage)

    subject = model(L, step, fails=True)
    with pytest.raises(ValueError, match="the user's"):
        trainer(L, monitors).fit(subject, loader())
    subject.fails = False
    trainer(L, monitors, folder=tmp_path).fit(subject, loader())
    assert last(tmp_path)["logits/train/rows"] == 64


NAN, INF = float("nan"), float("inf")


def spoiled(z, y, kind):
    """A batch of which the monitors must count every row and no more."""
    z, y = z.detach().clone(), y.clone()
    match kind:
        case "NaN":
            z[0, 0], z[3] = NAN, NAN
        case "inf":
            z[0, 0], z[1, 0] = INF, -INF
        case "absent rows":
            z[2] = -INF
        case "all not finite":
            z[:] = NAN
        case "all ignored":
            y[:] = -100
        case "out of range":
            y[0], y[1], y[2] = 10, -1, 10**9
        case "empty":
            z, y = z[:0], y[:0]
        case "one class":
            z, y = z[:, :1], torch.zeros_like(y)
        case "integers":
            z = (4 * z).long()
        case "bytes":
            z = (4 * z).abs().to(torch.uint8)
        case "everything at once":
            z[0, 0], z[1, 0], z[2], y[3], y[4], y[0] = NAN, INF, -INF, -100, 77, -100
    return z, y


KINDS = (
    *("NaN", "inf", "absent rows", "all not finite", "all ignored", "out of range", "empty", "one class", "integers"),
    *("bytes", "everything at once"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["observe", "outputs"])
@pytest.mark.parametrize("rows", [5, 10**9])
def test_every_row_of_an_odd_batch_is_accounted_for(kind, way, rows, tmp_path):
    def step(module, batch, stage):
        logits = module.net(batch[0])
        z, y = spoiled(logits, batch[1], kind)
        module.record(stage, z, y)
        loss = logits.square().mean()
        if way == "observe":
            logitwatch.observe(z, y)
            return loss
        return {"loss": loss, "logits": z, "targets": y}

    subject = model(L, step)
    monitors = [
        logitwatch.LogitMonitor(every_n_steps=1, rows=rows, on_fault="raise"),
        logitwatch.CalibrationMonitor(every_n_steps=1, rows=rows, on_fault="raise"),
    ]
    trainer(L, monitors, folder=tmp_path, log_every_n_steps=1000).fit(subject, loader(), loader(32))
    reported = last(tmp_path)
    assert reported["logitwatch/faults"] == 0
    for stage in ("train", "val"):
        z = torch.cat([z for z, _ in subject.recorded[stage]]).double()
        y = torch.cat([y for _, y in subject.recorded[stage]])
        if len(z) == 0:
            assert reported.get(f"logits/{stage}/rows", 0) == 0
            continue
        finite = z.amax(-1).isfinite()
        bad = finite & (y != -100) & ((y < 0) | (y >= z.shape[1]))
        counts = {
            "rows": len(z),
            "nonfinite": int((~finite).sum()),
            "ignored": int((finite & (y == -100)).sum()),
            "bad_target": int(bad.sum()),
        }
        assert {name: reported[f"logits/{stage}/{name}"] for name in counts} == counts
        if finite.any() and f"logits/{stage}/max" in reported:
            assert reported[f"logits/{stage}/max"] == z[finite].amax()


def test_every_row_is_counted_ignored_not_finite_or_without_a_target():
    monitor = logitwatch.LogitMonitor()
    generator = torch.Generator().manual_seed(0)
    state = monitor.empty(torch.device("cpu"))
    from logitwatch.capture.observation import Observation

    for kind in KINDS:
        z, y = spoiled(torch.randn(16, 10, generator=generator), torch.arange(16) % 10, kind)
        seen = Observation.of(z, y)
        state = state.merge(monitor.summary(seen, seen, None, histograms=True))
    parts = (state.counted, state.nonfinite, state.ignored, state.bad_target)
    assert int(state.seen) == sum(map(int, parts)) == 16 * (len(KINDS) - 1)
    assert all(int(part) > 0 for part in parts)


def test_a_loss_that_becomes_nan_is_counted_and_the_run_is_the_users(tmp_path):
    def step(module, batch, stage):
        return F.cross_entropy(module.net(batch[0]) * (NAN if module.global_step > 4 else 1.0), batch[1])

    monitors = [logitwatch.LogitMonitor(every_n_steps=1, on_fault="raise"), logitwatch.CalibrationMonitor()]
    trainer(L, monitors, folder=tmp_path, log_every_n_steps=1000).fit(model(L, step), loader(160))
    assert last(tmp_path)["logits/train/nonfinite"] == 80


def test_all_ignored_labels_are_no_alarm(tmp_path, caplog):
    def step(module, batch, stage):
        logits = module.net(batch[0])
        ignored = torch.full_like(batch[1], -100)
        return F.cross_entropy(logits, ignored, reduction="sum") + 0 * F.cross_entropy(logits, ignored)

    with caplog.at_level(logging.WARNING, logger="logitwatch"):
        trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path).fit(model(L, step), loader(), loader(32))
    assert messages(caplog) == []
    assert last(tmp_path)["logits/val/ignored"] == last(tmp_path)["logits/val/rows"] == 64


def test_a_criterion_that_cannot_be_read_does_not_end_the_step(tmp_path, monkeypatch, caplog):
    def unreadable(*args):
        raise AttributeError("no such option")

    monkeypatch.setattr("logitwatch.capture.tap.read_module", unreadable)
    subject = model(L, lambda m, batch, stage: m.criterion(m.net(batch[0]), batch[1]), criterion=nn.CrossEntropyLoss())
    t = trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path, max_epochs=1)
    t.fit(subject, loader())
    assert t.state.finished
    assert "no such option" in caplog.text


def test_a_module_that_is_on_its_device_already_is_joined():
    module = model(L).to("meta")
    monitors = logitwatch.watch()
    t = trainer(L, monitors)
    for monitor in monitors:
        monitor.on_fault = "raise"
        monitor.setup(t, module, "fit")
        monitor.teardown(t, module, "fit")


def test_a_capture_that_keeps_failing_is_switched_off(tmp_path, caplog):
    def step(module, batch, stage):
        logits = module.net(batch[0])
        logitwatch.observe(logits[:-1], batch[1])
        return F.cross_entropy(logits, batch[1])

    t = trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path, log_every_n_steps=1)
    t.fit(model(L, step), loader(160))
    assert last(tmp_path)["logitwatch/faults"] == 3
    assert "capture failed 3 times and is switched off" in caplog.text


def test_one_call_that_cannot_be_read_leaves_the_others(tmp_path):
    def step(module, batch, stage):
        logits = module.net(batch[0])
        logitwatch.observe(logits, batch[1])
        logitwatch.observe(logits[:-1], batch[1])
        return F.cross_entropy(logits, batch[1])

    t = trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path, log_every_n_steps=1)
    t.fit(model(L, step), loader(32))
    assert scalars(tmp_path)["logits/train/rows"] == [(1, 32.0)]
