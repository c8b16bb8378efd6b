"""One training under injected faults, by a seed that also chooses which training; for any number of seeds."""

import contextlib
import logging
import warnings
from functools import partial

import pytest
from helpers.models import NAMESPACES, namespace

import logitwatch
from logitwatch.testing.chaos import ChaosCallback
from logitwatch.testing.harmless import assert_harmless
from logitwatch.testing.specimen import loader, module, step, trainer


class Hooked(logitwatch.LogitMonitor):
    """Hooks of its own, some of which call those of the base."""

    def setup(self, trainer, pl_module, stage):
        super().setup(trainer, pl_module, stage)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pass

    def on_validation_epoch_end(self, trainer, pl_module):
        pass

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        pass

    def on_exception(self, trainer, pl_module, exception):
        pass

    def teardown(self, trainer, pl_module, stage):
        super().teardown(trainer, pl_module, stage)

    def state_dict(self):
        return {"mine": 1}


MONITORS = (
    partial(logitwatch.watch, every_n_steps=1),
    partial(logitwatch.watch, every_n_steps=2, rows=4),
    lambda: [Hooked(every_n_steps=1), logitwatch.CalibrationMonitor(every_n_steps=3)],
    lambda: [logitwatch.LogitMonitor(source="criterion", every_n_steps=1), Hooked(source="head")],
)
ENDS = ("fit", "fit and test", "an error of the user")


@contextlib.contextmanager
def untold():
    """Nothing is heard of the faults that are meant, nor of a file that is left open where closing it was to fail."""
    logger = logging.getLogger("logitwatch")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "unclosed file", ResourceWarning)
            yield
    finally:
        logger.disabled = before


def failing_step(module, batch, stage):
    if module.global_step == 5:
        raise ValueError("the user's")
    return step(module, batch, stage)


def run(callbacks, end, folder, lightning):
    """Two epochs with validation and checkpoints, into a log folder; the Trainer."""
    logger = lightning.loggers.CSVLogger(folder)
    checkpoints = lightning.callbacks.ModelCheckpoint(every_n_train_steps=3, save_top_k=-1)
    used = trainer([*callbacks, checkpoints], lightning=lightning, logger=logger, enable_checkpointing=True)
    subject = module(lightning, failing_step if end == "an error of the user" else step)
    if end == "an error of the user":
        with pytest.raises(ValueError, match="the user's"):
            used.fit(subject, loader(shuffle=True), loader())
    else:
        used.fit(subject, loader(shuffle=True), loader())
    return used


@untold()
def survive_chaos(seed, folder, *, p=0.15):
    """Assert that a run under the faults of a seed is the run without the suite, and that each fault is counted.

    Returns the faults injected, by place.
    """
    lightning = namespace(NAMESPACES[seed % 2])
    monitors, end = MONITORS[seed % len(MONITORS)](), ENDS[seed % len(ENDS)]
    chaos = ChaosCallback(seed, p)

    def run_with():
        with chaos:
            return run(monitors, end, folder / "with", lightning)

    assert_harmless(run_with, lambda: run([], end, folder / "without", lightning), seed=seed)
    assert [monitor.faults for monitor in monitors] == [chaos.total] * len(monitors), chaos.injected
    injected = chaos.injected
    if end == "fit and test":
        used = trainer(monitors, lightning=lightning)
        with chaos:
            used.test(module(lightning), loader(), verbose=False)
        assert [monitor.faults for monitor in monitors] == [chaos.total] * len(monitors), chaos.injected
    return injected
