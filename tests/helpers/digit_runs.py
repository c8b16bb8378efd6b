"""A training on digits without an end, which keeps note of how far it is where another process can read it."""

import importlib
import os
import struct
import warnings
from pathlib import Path

from helpers.models import NAMESPACES, cross_entropy_step, digits, loader, model, trainer

import logitwatch

BATCH, REPORT_EVERY, SAVE_EVERY = 16, 5, 7

_NOTE = struct.Struct("qq")
# What a first run would import or read is here before the fork.
_LIGHTNING = {name: importlib.import_module(name) for name in NAMESPACES}
for _name in ("logitwatch.sinks.tensorboard", "sklearn.datasets", "torch.utils.tensorboard", "torch._dynamo"):
    importlib.import_module(_name)
digits()


def progress(folder):
    """Steps begun and steps completed by a run in this folder; None before its training began."""
    path = Path(folder) / "progress"
    return _NOTE.unpack(path.read_bytes()) if path.exists() and path.stat().st_size == _NOTE.size else None


def train(folder, namespace, tensorboard, resume=None, steps=-1):
    """Train, with every step looked at and a report every five, until a signal or ``steps``."""
    warnings.simplefilter("ignore")  # Lightning's, about folders that are not empty
    lightning = _LIGHTNING[namespace]
    loggers = [lightning.loggers.CSVLogger(folder, name="run", version=0, flush_logs_every_n_steps=1)]
    if tensorboard:
        loggers.append(lightning.loggers.TensorBoardLogger(folder, name="events", version=0))
    checkpoints = lightning.callbacks.ModelCheckpoint(
        Path(folder) / "checkpoints", every_n_train_steps=SAVE_EVERY, save_top_k=-1
    )
    watch = logitwatch.watch(every_n_steps=1, rows=10**9)
    trainer(
        lightning,
        [_notes(lightning, folder), *watch, checkpoints],
        logger=loggers,
        enable_checkpointing=True,
        log_every_n_steps=REPORT_EVERY,
        max_epochs=-1,
        max_steps=steps,
    ).fit(model(lightning, _logged_step), loader(40 * BATCH, BATCH), ckpt_path=resume)


def _logged_step(module, batch, stage):
    loss = cross_entropy_step(module, batch, stage)
    module.log("loss", loss)
    return loss


def _notes(lightning, folder):
    file = os.open(Path(folder) / "progress", os.O_CREAT | os.O_WRONLY)

    class Notes(lightning.Callback):
        def on_train_start(self, trainer, module):
            self.note(trainer.global_step, trainer.global_step)

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.note(trainer.global_step + 1, trainer.global_step)

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.note(trainer.global_step, trainer.global_step)

        def note(self, *numbers):
            os.pwrite(file, _NOTE.pack(*numbers), 0)

    return Notes()
