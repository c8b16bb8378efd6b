import copy
import pickle
from collections import Counter
from types import SimpleNamespace

import pytest
from helpers.chaos import survive_chaos, untold
from helpers.models import NAMESPACES, namespace

import logitwatch
from logitwatch.callbacks.faults import Faults
from logitwatch.testing.chaos import ChaosCallback, InjectedFault
from logitwatch.testing.specimen import loader, module, train, trainer

SEEDS = range(32)


@pytest.fixture(autouse=True)
def _nothing_is_told():
    with untold():
        yield


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_under_chaos_is_the_same_run_and_counts_every_fault(seed, tmp_path):
    assert survive_chaos(seed, tmp_path)
    assert Faults.inject is None


def test_chaos_is_everywhere(tmp_path):
    places = " ".join(sum((survive_chaos(seed, tmp_path / str(seed), p=0.3) for seed in range(12)), Counter()))
    for place in (
        *("capture", "saving", "opening of the sinks", "logger CSVLogger", "closing of sink"),
        *("sink 0 LightningSink", "sink 1 JsonlSink", "Hooked.setup", "Hooked.teardown", "Hooked.on_exception"),
        *("Hooked.on_train_batch_end", "Hooked.on_validation_epoch_end", "Hooked.on_save_checkpoint"),
        *("Hooked.state_dict", "LogitMonitor", "CalibrationMonitor", "LogitMonitor.empty"),
    ):
        assert place in places, place


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_run_in_which_everything_fails_is_the_same_run(seed, tmp_path):
    assert survive_chaos(seed, tmp_path, p=1.0)


def test_the_same_seed_injects_the_same_faults_whatever_the_threads_do(tmp_path):
    def faults(seed):
        with ChaosCallback(seed, p=0.3) as chaos:
            logger = namespace(NAMESPACES[0]).loggers.CSVLogger(tmp_path / str(seed))
            train(logitwatch.watch(every_n_steps=1), logger=logger)
        return chaos.injected

    assert faults(1) == faults(1) != faults(2)


def test_ranks_fail_apart(monkeypatch):
    def moments(rank):
        fake = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: rank)
        monkeypatch.setattr("logitwatch.testing.chaos.dist", fake)
        struck = []
        with ChaosCallback(0, p=0.5):
            for moment in range(64):
                try:
                    Faults.inject("monitor")
                except InjectedFault:
                    struck.append(moment)
        return struck

    assert moments(0) == moments(0) != moments(1)
    # Four standard deviations of a binomial about its mean.
    assert 16 <= len(moments(0)) <= 48


def test_as_a_callback_it_lasts_as_long_as_the_run():
    seen = []

    class Looks(logitwatch.LogitMonitor):
        def setup(self, trainer, pl_module, stage):
            seen.append(Faults.inject is not None)

        def on_train_end(self, trainer, pl_module):
            seen.append(Faults.inject is not None)

    chaos, monitor = ChaosCallback(p=0.0), Looks()
    train([chaos, monitor])
    assert seen == [True, True]
    assert Faults.inject is None
    assert chaos.total == monitor.faults == 0


@pytest.mark.parametrize("name", NAMESPACES)
def test_what_it_injects_as_a_callback_is_counted(name):
    chaos, monitors = ChaosCallback(3, p=0.3), logitwatch.watch(every_n_steps=1)
    train([chaos, *monitors], lightning=namespace(name))
    assert chaos.total > 0
    assert [monitor.faults for monitor in monitors] == [chaos.total] * 3


def test_listed_first_and_last_it_is_there_until_the_monitors_have_let_go():
    class Looks(logitwatch.LogitMonitor):
        def teardown(self, trainer, pl_module, stage):
            seen.append(Faults.inject is not None)

    seen, chaos = [], ChaosCallback(p=0.0)
    train([chaos, Looks(), chaos])
    train([chaos, Looks()])
    assert seen == [True, False]
    assert Faults.inject is None


class FailsInSetup(ChaosCallback):
    def setup(self, trainer, pl_module, stage):
        raise ValueError("the user's")


@pytest.mark.parametrize("last", [True, False], ids=["first and last", "first"])
def test_it_is_not_left_behind_where_another_callback_ends_the_run_in_its_setup(last):
    chaos = ChaosCallback()
    with pytest.raises(ValueError, match="the user's"):
        train([chaos, FailsInSetup(), *([chaos] if last else [])])
    assert Faults.inject is None


def test_it_is_not_left_behind_by_a_context_that_fails():
    def fails():
        with ChaosCallback() as chaos:
            chaos.setup(None, None, "fit")
            raise ValueError("the user's")

    with pytest.raises(ValueError, match="the user's"):
        fails()
    assert Faults.inject is None


def test_one_that_ends_leaves_another_that_began_later():
    first, second = ChaosCallback(1), ChaosCallback(2)
    with second:
        first.teardown(None, None, "fit")
        assert Faults.inject is not None


def test_a_context_outlasts_the_runs_in_it():
    with ChaosCallback(p=0.0) as chaos:
        train([chaos])
        assert Faults.inject is not None
    assert Faults.inject is None


def test_each_run_is_counted_anew():
    chaos, monitor = ChaosCallback(0, p=0.3), logitwatch.LogitMonitor(every_n_steps=1)
    subject, used = module(), trainer([chaos, monitor])
    for _ in range(2):
        used.validate(subject, loader(), verbose=False)
        assert monitor.faults == chaos.total > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"])
def test_a_copy_injects_nothing_until_it_is_used(copied):
    with ChaosCallback(5, p=1.0) as chaos:
        again = copied(chaos)
    assert (again.seed, again.p) == (5, 1.0)
    again.teardown(None, None, "fit")
    assert Faults.inject is None
    with again, pytest.raises(InjectedFault, match="fault 1 injected into monitor, at moment 0 of rank 0"):
        Faults.inject("monitor")


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_a_probability_is_one(p):
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\]"):
        ChaosCallback(p=p)
