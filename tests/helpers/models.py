"""Small LightningModules for a Trainer of either namespace, which keep the logits they made, to be compared."""

import importlib
import warnings
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

NAMESPACES = ("lightning.pytorch", "pytorch_lightning")
FEATURES, CLASSES = 64, 10


def namespace(name):
    return importlib.import_module(name)


@cache
def digits():
    """Real pictures, 1797 of them: float32 ``[n, 64]`` in ``[0, 1]`` and their digits."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.from_numpy(bunch.data).float() / 16, torch.from_numpy(bunch.target).long()


def loader(rows=64, batch_size=16, *, start=0, targets=None):
    """Digits in batches; ``targets`` maps the digits to other targets."""
    x, y = (t[start : start + rows] for t in digits())
    return DataLoader(TensorDataset(x, y if targets is None else targets(y)), batch_size=batch_size)


def net(*, seed=0, classes=CLASSES, dropout=0.0, scale=4.0):
    """Two layers with a private seed; scaled so that the logits are far from uniform."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, classes))
    with torch.no_grad():
        layers[-1].weight.mul_(scale)
    return layers


def cross_entropy_step(module, batch, stage):
    """The usual step: a function of torch, and only the loss comes back."""
    x, y = batch
    logits = module.net(x)
    module.record(stage, logits, y)
    return F.cross_entropy(logits, y)


def model(lightning, step=cross_entropy_step, *, network=None, lr=0.1, manual=False, **attributes):
    """A LightningModule whose every step is ``step(module, batch, stage)``.

    ``attributes`` are set before the Trainer sees it: criteria, inner networks. What the step hands to ``record`` is in
    ``recorded[stage]`` as ``(logits, targets)``, copied before backward.
    """

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net() if network is None else network
            self.automatic_optimization = not manual
            self.recorded = {"train": [], "val": [], "test": [], "predict": []}
            for name, value in attributes.items():
                setattr(self, name, value)

        def record(self, stage, logits, targets=None):
            if not self.trainer.sanity_checking:
                self.recorded[stage].append((logits.detach().clone(), None if targets is None else targets.clone()))

        def training_step(self, batch, batch_idx):
            return step(self, batch, "train")

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return step(self, batch, "val")

        def test_step(self, batch, batch_idx):
            return step(self, batch, "test")

        def predict_step(self, batch, batch_idx):
            return step(self, batch, "predict")

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=lr, momentum=0.9)

    return Model()


def trainer(lightning, callbacks, *, folder=None, **options):
    """A quiet Trainer on the CPU; with a ``folder`` the run is also in ``logitwatch.jsonl`` below it."""
    logger = lightning.loggers.CSVLogger(str(folder), name="run") if folder is not None else False
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": logger,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about the machine
        return lightning.Trainer(callbacks=callbacks, **(quiet | options))
