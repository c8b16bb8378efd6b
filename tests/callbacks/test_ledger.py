import pytest
import torch

from logitwatch.callbacks.ledger import Account, Ledger


@pytest.fixture
def clock():
    return [100.0]


def test_overhead_is_own_time_over_the_time_of_the_steps(clock):
    ledger = Ledger(lambda: clock[0])
    ledger.spent(0.5)
    clock[0] += 10
    assert ledger.balance(faults=0, dropped=0).values()["logitwatch/overhead"] == pytest.approx(0.05)
    clock[0] += 10
    assert ledger.balance(faults=0, dropped=0).values()["logitwatch/overhead"] == 0


def test_time_of_other_threads_is_own_time_and_step_time(clock):
    ledger = Ledger(lambda: clock[0])
    clock[0] += 1
    ledger.spent(0.5, elsewhere=3.0)
    assert ledger.balance(faults=0, dropped=0).values()["logitwatch/overhead"] == pytest.approx(3.5 / 4)


def test_time_of_validation_is_not_time_of_steps(clock):
    ledger = Ledger(lambda: clock[0])
    ledger.spent(1.0)
    clock[0] += 10
    ledger.pause()
    clock[0] += 1000
    ledger.resume()
    ledger.resume()
    assert ledger.balance(faults=0, dropped=0).values()["logitwatch/overhead"] == pytest.approx(0.1)


def test_coverage_counts_the_rows_of_steps_nobody_looked_at():
    ledger = Ledger()
    for _ in range(4):
        ledger.step()
    ledger.looked(rows=100, sampled=50)
    ledger.looked(rows=300, sampled=50)
    assert ledger.balance(faults=0, dropped=0).values()["logitwatch/coverage"] == pytest.approx(100 / (200 * 4))


def test_a_window_without_a_look_says_nothing_of_coverage():
    ledger = Ledger()
    ledger.step()
    assert "logitwatch/coverage" not in ledger.balance(faults=0, dropped=0).values()


def test_accounts_of_ranks_add_up():
    one = Account.of(seconds=10, own_seconds=1, steps=4, looks=2, rows=40, sampled=20, faults=1)
    other = Account.of(seconds=30, own_seconds=1, steps=4, looks=2, rows=20, sampled=10, dropped=2)
    assert one.merge(other).values() == {
        "logitwatch/overhead": 0.05,
        "logitwatch/coverage": 30 / (15 * 8),
        "logitwatch/faults": 1,
        "logitwatch/dropped": 2,
    }
    assert torch.equal(one.merge(Account.empty()).entries, one.entries)
