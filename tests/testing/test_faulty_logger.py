import time

import pytest
from helpers.models import NAMESPACES, loader, model, namespace, trainer

import logitwatch
from logitwatch.sinks.lightning import LightningSink
from logitwatch.sinks.opening import log_folder, open_sinks
from logitwatch.testing.faulty_logger import FaultyLogger


@pytest.mark.parametrize("name", NAMESPACES)
def test_a_trainer_of_either_namespace_takes_it(name):
    assert isinstance(FaultyLogger(), namespace(name).loggers.Logger)
    logger = FaultyLogger(error=None)
    trainer(namespace(name), [], logger=logger).fit(model(namespace(name)), loader())
    assert logger.asked == 0  # nothing was logged


def test_it_fails_at_every_nth_call_and_keeps_the_others():
    logger, error = FaultyLogger(error=RuntimeError("boom"), every=3), RuntimeError
    for step in range(1, 8):
        if step % 3:
            logger.log_metrics({"x": float(step)}, step)
        else:
            with pytest.raises(error, match="boom"):
                logger.log_metrics({"x": float(step)}, step)
    assert logger.asked == 7
    assert [step for step, _ in logger.metrics] == [1, 2, 4, 5, 7]
    assert logger.metrics[0] == (1, {"x": 1.0})


def test_an_error_that_is_raised_again_does_not_keep_the_frames_of_the_last_time():
    logger, depths = FaultyLogger(), []
    for _ in range(3):
        with pytest.raises(OSError, match="No space left") as raised:
            logger.log_metrics({}, 0)
        depths.append(len(raised.traceback))
    assert depths[0] == depths[1] == depths[2]


def test_a_slow_one_takes_its_time():
    logger = FaultyLogger(error=None, delay=0.05)
    began = time.perf_counter()
    logger.log_metrics({}, 0)
    assert time.perf_counter() - began >= 0.05


@pytest.mark.parametrize(("options", "message"), [({"delay": -1}, "delay must be >= 0"), ({"every": 0}, "every must")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FaultyLogger(**options)


def test_the_suite_sends_it_scalars_and_finds_no_folder():
    logger = FaultyLogger(error=None)
    assert [type(sink) for sink in open_sinks([logger], log_folder([logger]))] == [LightningSink]


@pytest.mark.parametrize("every", [1, 2])
def test_a_run_outlives_a_full_disk_and_every_failure_is_counted(every):
    lightning = namespace(NAMESPACES[0])
    logger, monitor = FaultyLogger(every=every), logitwatch.LogitMonitor(every_n_steps=1)
    used = trainer(lightning, [monitor], logger=logger, log_every_n_steps=1)
    used.fit(model(lightning), loader(160))
    assert used.global_step == 10
    assert monitor.faults == logger.asked - len(logger.metrics) == 3  # then it is switched off
    assert logger.asked == 3 * every
