import threading
import time

import pytest

from logitwatch.callbacks import courier as module
from logitwatch.callbacks.courier import MOST_WAITING, Courier, Messenger
from logitwatch.callbacks.faults import Faults
from logitwatch.sinks.memory import MemorySink
from logitwatch.sinks.readings import Scalars


def report(step):
    return [Scalars(values={"a": float(step)}, step=step)]


class Stuck(MemorySink):
    """A sink that writes when it is let."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def write(self, readings):
        assert self.gate.wait(30)
        super().write(readings)


class Fails(MemorySink):
    calls = closed = 0

    def write(self, readings):
        self.calls += 1
        raise OSError("boom")

    def close(self):
        self.closed += 1
        raise OSError("boom")


def test_reports_are_written_in_order_by_another_thread():
    threads = []

    class Notes(MemorySink):
        def write(self, readings):
            threads.append(threading.current_thread())
            super().write(readings)

    sink = Notes()
    courier = Courier(sink, "notes", Faults())
    for step in range(20):
        courier.send(report(step))
    courier.close()
    assert sink.history["a"] == [(step, float(step)) for step in range(20)]
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()
    assert not threads[0].is_alive()


def test_a_report_is_known_while_it_waits_and_after_it_was_written():
    sink = Stuck()
    courier, first, second = Courier(sink, "stuck", Faults()), report(0), report(1)
    assert not courier.has(first)
    courier.send(first)
    assert courier.has(first)
    courier.send(second)
    assert courier.has(second)
    assert not courier.has(report(1))  # another one that says the same
    sink.gate.set()
    courier.close()
    assert courier.has(second)
    assert not Messenger(MemorySink(), "memory", Faults()).has(second)


def test_sending_does_not_wait_and_a_full_queue_drops_its_oldest_reports_and_counts_them():
    sink = Stuck()
    courier = Courier(sink, "stuck", Faults())
    courier.send(report(0))
    while courier._waiting:  # the thread holds the first report
        time.sleep(0.001)
    for step in range(1, MOST_WAITING + 4):
        courier.send(report(step))
    assert courier.dropped == 3
    sink.gate.set()
    courier.close()
    assert [step for step, _ in sink.history["a"]] == [0, *range(4, MOST_WAITING + 4)]


def test_the_end_of_a_run_waits_for_a_stuck_sink_no_longer_than_it_says(monkeypatch, caplog):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    sink = Stuck()
    courier = Courier(sink, "stuck", Faults())
    for step in range(3):
        courier.send(report(step))
    while len(courier._waiting) > 2:
        time.sleep(0.001)
    courier.close()
    assert courier.dropped == 2
    assert "stuck was still busy" in caplog.text
    courier.send(report(9))
    assert courier.dropped == 3
    sink.gate.set()
    courier._thread.join(30)
    assert sink.history["a"] == [(0, 0.0)]


@pytest.mark.parametrize("kind", [Courier, Messenger])
def test_a_failing_sink_is_switched_off_after_three_and_every_loss_is_counted(kind, caplog):
    sink, faults = Fails(), Faults()
    line = kind(sink, "sink", faults)
    for step in range(6):
        line.send(report(step))
        line.drain()
    line.close()
    assert (sink.calls, sink.closed, line.dropped) == (3, 1, 6)
    assert faults.count == 4
    assert "sink failed 3 times and is switched off" in caplog.text


def test_what_the_thread_may_not_keep_to_itself_is_handed_over():
    courier = Courier(Fails(), "sink", Faults("raise"))
    courier.send(report(0))
    courier.drain()
    assert isinstance(courier.failed, OSError)
    courier.close()


def test_draining_says_whether_everything_is_written():
    sink = Stuck()
    courier = Courier(sink, "stuck", Faults())
    assert courier.drain(0)
    courier.send(report(0))
    assert not courier.drain(0.01)
    sink.gate.set()
    assert courier.drain(30)
    assert sink.reports == 1
    courier.close()


def test_the_work_of_the_thread_is_told_once():
    class Busy(MemorySink):
        def write(self, readings):
            until = time.thread_time() + 0.02
            while time.thread_time() < until:
                pass

    courier = Courier(Busy(), "busy", Faults())
    courier.send(report(0))
    courier.drain()
    assert courier.worked() >= 0.02
    assert courier.worked() == 0
    courier.send(report(1), charged=False)
    courier.drain()
    assert courier.worked() == 0
    courier.close()


def test_a_courier_that_never_sent_has_no_thread_and_closes_its_sink():
    sink = Fails()
    before = threading.active_count()
    courier = Courier(sink, "sink", Faults())
    courier.close()
    assert sink.closed == 1
    assert threading.active_count() == before


def test_a_slow_sink_in_the_thread_of_the_training_is_given_its_share_and_no_more(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    class Slow(MemorySink):
        takes = 5.0

        def write(self, readings):
            now[0] += self.takes
            super().write(readings)

    sink = Slow()
    messenger = Messenger(sink, "slow", Faults(), share=0.01)
    for step in range(10):
        messenger.send(report(step))
        now[0] += 10
    assert (sink.reports, messenger.dropped) == (1, 9)
    now[0] += 500
    messenger.send(report(10))
    assert sink.reports == 2
    sink.takes = 0.001
    now[0] += 500
    for step in range(11, 20):
        messenger.send(report(step))
    assert sink.reports == 11
