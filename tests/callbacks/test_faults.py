import logging

import pytest

from logitwatch.callbacks.faults import DISARM_AFTER, Faults


def fail(faults, place="monitor", error=None):
    def call():
        raise error or ValueError("boom")

    return faults.attempt(place, call, otherwise="otherwise")


def test_a_fault_does_not_get_out_and_is_counted():
    faults = Faults()
    assert fail(faults) == "otherwise"
    fail(faults, "sink")
    with faults.skeleton("report"):
        raise ValueError("boom")
    assert faults.count == 3


def test_a_place_is_switched_off_after_three_and_the_others_are_not():
    faults = Faults()
    for expected in [True] * DISARM_AFTER + [False]:
        assert faults.armed("monitor") is expected
        fail(faults)
    assert faults.armed("sink")


def test_the_first_is_told_with_its_traceback_and_the_last_without(caplog):
    faults = Faults()
    with caplog.at_level(logging.DEBUG, logger="logitwatch"):
        for _ in range(5):
            fail(faults)
    first, last = caplog.records
    assert first.levelname == last.levelname == "ERROR"
    assert first.exc_info[0] is ValueError
    assert "monitor failed; training goes on" in first.getMessage()
    assert last.exc_info is None
    assert "monitor failed 3 times and is switched off" in last.getMessage()


def test_raising_lets_the_very_exception_out_and_still_counts():
    faults, error = Faults("raise"), ValueError("boom")
    with pytest.raises(ValueError, match="boom") as raised:
        fail(faults, error=error)
    assert raised.value is error
    assert faults.count == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupt_is_the_users_and_passes(error):
    faults = Faults()
    with pytest.raises(type(error)):
        fail(faults, error=error)
    assert faults.count == 0


def test_nothing_happens_where_nothing_fails():
    faults = Faults("raise")
    assert faults.attempt("monitor", max, 1, 2, otherwise=0) == 2
    assert faults.count == 0


@pytest.mark.parametrize(("fails_at", "called"), [(1, 0), (2, 1)], ids=["before", "after"])
def test_a_fault_may_be_injected_before_and_after_every_attempt(fails_at, called, monkeypatch):
    asked, calls = [], []

    def inject(place):
        asked.append(place)
        if len(asked) == fails_at:
            raise RuntimeError("injected")

    monkeypatch.setattr(Faults, "inject", inject)
    faults = Faults()
    assert faults.attempt("monitor", calls.append, 1, otherwise="otherwise") == "otherwise"
    assert (len(calls), faults.count, asked) == (called, 1, ["monitor"] * fails_at)


def test_what_was_counted_elsewhere_is_taken_over_once():
    one, other = Faults(), Faults()
    for _ in range(2):
        fail(other)
    fail(one)
    one.absorb(other)
    one.absorb(other)
    one.absorb(one)
    assert (one.count, other.count, one.armed("monitor")) == (3, 0, False)
