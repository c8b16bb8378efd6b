import logging
import signal

import pytest
import torch
from end_to_end.recomputed import last, records, scalars, texts
from helpers.models import cross_entropy_step, loader, model, namespace, trainer

import logitwatch
from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.courier import Courier
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.callbacks.session import Session
from logitwatch.capture.tap import Tap

L = namespace("pytorch_lightning")


class Stub:
    """As much of a Trainer as a session asks before it reports."""

    global_step, log_every_n_steps = 0, 50
    sanity_checking, is_global_zero = False, True
    loggers = ()

    def __init__(self, *monitors):
        self.callbacks = list(monitors)


@pytest.fixture
def joined():
    """A session of two monitors, let go afterwards."""
    subject, monitors = model(L), logitwatch.watch(every_n_steps=2)
    stub = Stub(*monitors)
    sessions = [Session.join(stub, subject, monitor) for monitor in monitors]
    yield stub, subject, monitors, sessions[0]
    sessions[0].close()


def test_monitors_of_one_module_share_a_session(joined):
    stub, subject, monitors, session = joined
    assert Session.join(stub, subject, monitors[1]) is session
    assert session.monitors == monitors
    assert Tap.of(subject).listener is session


def test_another_trainer_begins_another_session_and_ends_the_old_one(joined):
    _, subject, monitors, session = joined
    other = Session.join(Stub(), subject, monitors[0])
    assert other is not session
    assert Tap.of(subject).listener is other
    session.close()  # the old one takes nothing of the new one with it
    assert Tap.of(subject).listener is other
    other.close()
    assert Tap.of(subject).listener is None


def test_micro_batches_of_a_step_are_looked_at_once(joined):
    stub, _, _, session = joined
    wanted = []
    for step in (0, 0, 1, 1, 2, 2):
        stub.global_step = step
        wanted.append(session.wants("train", (), {}) is not None)
    assert wanted == [True, False, False, False, True, False]


def test_every_validation_step_is_looked_at_but_for_the_sanity_check(joined):
    stub, _, _, session = joined
    stub.global_step = 5
    for args, kwargs, expected in [((1, 2), {}, 0), ((1, 2, 3), {}, 3), ((1,), {"dataloader_idx": 2}, 2)]:
        look = session.wants("val", args, kwargs)
        assert (look.stage, look.loader, look.step) == ("val", expected, 5)
    stub.sanity_checking = True
    assert session.wants("val", (1, 2), {}) is None


def test_no_step_is_looked_at_while_the_callbacks_are_taken_away(joined):
    stub, _, monitors, session = joined
    stub.callbacks = []  # as a tuner does for its trials
    assert [session.wants(stage, (1, 2), {}) for stage in ("train", "val")] == [None, None]
    assert session.pace.cadence is None
    stub.callbacks = monitors
    assert session.wants("train", (1, 2), {}) is not None


def test_a_fault_in_deciding_is_counted_and_no_look(joined, caplog):
    stub, _, _, session = joined
    stub.global_step = "not a number"
    assert session.wants("train", (), {}) is None
    assert session.faults.count == 1
    assert "cadence failed" in caplog.text


@pytest.mark.parametrize("order", [1, -1])
def test_the_smallest_cadence_and_budget_and_the_largest_number_of_rows_count(order):
    monitors = [LogitMonitor(every_n_steps=4, rows=8, budget=0.05), CalibrationMonitor(every_n_steps=3, rows=99)][
        ::order
    ]
    subject, stub = model(L), Stub(*monitors)
    for monitor in monitors:
        session = Session.join(stub, subject, monitor)
    session.wants("train", (), {})
    assert (session.pace.cadence.every_n_steps, session.pace.cadence.rows, session.pace.cadence.budget) == (3, 99, 0.01)
    session.close()


def test_faults_are_raised_where_one_monitor_asks_for_it():
    subject, stub = model(L), Stub()
    Session.join(stub, subject, LogitMonitor())
    session = Session.join(stub, subject, CalibrationMonitor(on_fault="raise"))
    assert session.faults.on_fault == "raise"
    session.close()


def test_a_chosen_cadence_is_told_with_the_line_that_repeats_it(tmp_path):
    trainer(L, logitwatch.watch(budget=0.5), folder=tmp_path, log_every_n_steps=5).fit(model(L), loader(40 * 16))
    (text,) = texts(tmp_path, "logitwatch/cadence")
    assert "budget of 50.0% of the step time" in text
    (line,) = [part for part in text.split("`") if part.startswith("watch(")]
    again = eval(line, {"watch": logitwatch.watch})
    assert all(monitor.every_n_steps >= 1 and monitor.rows >= 1 for monitor in again)
    assert [step for step, _ in scalars(tmp_path)["logitwatch/overhead"]][:3] == [8, 24, 32]


def test_a_report_carries_what_its_window_held_and_the_next_begins_anew(tmp_path):
    t = trainer(L, logitwatch.watch(every_n_steps=2, rows=10**9), folder=tmp_path, log_every_n_steps=6)
    t.fit(model(L), loader(20 * 16))
    # Looks at 0 2 4 6 | 8 10 12 | 14 16 18 | nothing is left but the end
    assert scalars(tmp_path)["logits/train/rows"] == [(6, 64.0), (12, 48.0), (18, 48.0)]


def test_calibration_waits_until_it_has_rows_enough(tmp_path):
    t = trainer(L, logitwatch.watch(every_n_steps=1, rows=10**9), folder=tmp_path, log_every_n_steps=10)
    t.fit(model(L), loader(100 * 16))
    reported = scalars(tmp_path)
    steps = [step for step, _ in reported["calibration/train/ece"]]
    assert steps == [20, 40, 60, 80, 100]  # reports come every 160 rows, and 256 are enough
    assert len(reported["logits/train/entropy"]) > len(steps)


def test_looks_and_rows_left_out_are_the_coverage(tmp_path):
    t = trainer(L, logitwatch.watch(every_n_steps=2, rows=4), folder=tmp_path, log_every_n_steps=1000)
    t.fit(model(L), loader(20 * 16))
    assert last(tmp_path)["logitwatch/coverage"] == 0.125
    assert last(tmp_path)["logits/train/rows"] == 160


def test_the_step_of_a_reading_is_the_optimizer_step(tmp_path):
    t = trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path, log_every_n_steps=1, accumulate_grad_batches=2)
    t.fit(model(L), loader(8 * 16), loader(32))
    steps = {record["step"] for record in records(tmp_path) if record.get("tag") == "logits/train/entropy"}
    assert steps <= set(range(5))
    assert max(steps) == t.global_step - 1 or max(steps) == t.global_step == 4
    assert scalars(tmp_path)["logits/val/rows"] == [(4, 32.0)]


def test_statistics_ignore_the_autocast_of_the_step(tmp_path):
    seen = []

    class Keeps(LogitMonitor):
        def summary(self, observation, sample, *args, **kwargs):
            seen.append((torch.mm(torch.ones(1, 1), torch.ones(1, 1)).dtype, torch.is_grad_enabled()))
            return super().summary(observation, sample, *args, **kwargs)

    trainer(L, [Keeps(every_n_steps=1, on_fault="raise")], precision="bf16-mixed").fit(model(L), loader(32))
    assert {grad for _, grad in seen} == {False}


def test_validation_time_is_no_training_time(tmp_path):
    def step(module, batch, stage):
        torch.ones(700, 700).mm(torch.ones(700, 700))  # a step beside which a report of each one is a part
        return cross_entropy_step(module, batch, stage)

    t = trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path, log_every_n_steps=1, val_check_interval=2)
    t.fit(model(L, step), loader(8 * 16), loader(64))
    assert all(0 < value <= 1 for _, value in scalars(tmp_path)["logitwatch/overhead"])


def test_nothing_is_said_where_all_is_well(caplog):
    with caplog.at_level(logging.WARNING, logger="logitwatch"):
        trainer(L, logitwatch.watch()).fit(model(L), loader(40 * 16), loader(32))
    assert [record.getMessage() for record in caplog.records if record.name == "logitwatch"] == []


@pytest.fixture
def _interruptible():
    """After Ctrl-C Lightning has SIGINT ignored for the rest of the process, which it ends."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def stopped_by(exception, folder, monitors):
    """Train until something ends it; the record's rows of each report, and every place where it says anything."""
    with pytest.raises(exception):
        trainer(L, monitors, folder=folder, log_every_n_steps=5).fit(model(L), loader(16 * 20))
    told = [(record["tag"], record["step"]) for record in records(folder) if record["kind"] != "header"]
    return [int(rows) for _, rows in scalars(folder)["logits/train/rows"]], told


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("moment", ["before a report is sent", "after it was sent"])
def test_an_interrupt_amid_a_report_loses_and_repeats_nothing(moment, tmp_path, monkeypatch):
    send = Courier.send

    def interrupted(self, readings, **how):
        if not any(getattr(reading, "step", None) == 10 for reading in readings) or interrupts:
            return send(self, readings, **how)
        interrupts.append(moment)
        if moment == "after it was sent":
            send(self, readings, **how)
            assert self.drain()
        raise KeyboardInterrupt

    interrupts = []
    monkeypatch.setattr(Courier, "send", interrupted)
    rows, told = stopped_by(SystemExit, tmp_path, logitwatch.watch(every_n_steps=1))
    assert interrupts
    assert rows == [6 * 16, 5 * 16]
    assert len(told) == len(set(told))


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupt_while_one_monitor_is_read_loses_no_window_of_another(tmp_path):
    class Interrupted(CalibrationMonitor):
        fewest_rows = 1

        def readings(self, state, tags, step):
            if step == 10 and not interrupts:
                interrupts.append(step)
                raise KeyboardInterrupt
            return super().readings(state, tags, step)

    interrupts = []
    monitors = [LogitMonitor(every_n_steps=1), Interrupted(every_n_steps=1)]
    rows, _ = stopped_by(SystemExit, tmp_path, monitors)
    assert interrupts
    assert rows == [6 * 16, 5 * 16]


def test_an_exception_in_a_step_just_reported_is_no_second_report_of_it(tmp_path):
    class Fails(L.Callback):
        def on_before_backward(self, trainer, module, loss):
            if trainer.global_step == 10:
                raise RuntimeError("boom")

    rows, told = stopped_by(RuntimeError, tmp_path, [*logitwatch.watch(every_n_steps=1), Fails()])
    assert rows == [6 * 16, 5 * 16]
    assert len(told) == len(set(told))
