import pytest

from logitwatch.callbacks.ledger import Ledger


@pytest.fixture
def clock():
    return [100.0]


def test_overhead_is_own_time_over_the_time_of_the_steps(clock):
    ledger = Ledger(lambda: clock[0])
    ledger.spent(0.5)
    clock[0] += 10
    assert ledger.balance()["logitwatch/overhead"] == pytest.approx(0.05)
    clock[0] += 10
    assert ledger.balance()["logitwatch/overhead"] == 0


def test_time_of_validation_is_not_time_of_steps(clock):
    ledger = Ledger(lambda: clock[0])
    ledger.spent(1.0)
    clock[0] += 10
    ledger.pause()
    clock[0] += 1000
    ledger.resume()
    ledger.resume()
    assert ledger.balance()["logitwatch/overhead"] == pytest.approx(0.1)


def test_coverage_counts_the_rows_of_steps_nobody_looked_at():
    ledger = Ledger()
    for _ in range(4):
        ledger.step()
    ledger.looked(rows=100, sampled=50)
    ledger.looked(rows=300, sampled=50)
    assert ledger.balance()["logitwatch/coverage"] == pytest.approx(100 / (200 * 4))


def test_a_window_without_a_look_says_nothing_of_coverage():
    ledger = Ledger()
    ledger.step()
    assert "logitwatch/coverage" not in ledger.balance()
