"""What the checks try a monitor on: a small network with all that a monitor might disturb, its data, and a Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from logitwatch.callbacks._compat import LightningCallback
from logitwatch.capture.explicit import observe
from logitwatch.testing._lightning import namespaces, namespaces_of
from logitwatch.testing.faulty_logger import FaultyLogger

__all__ = [
    "STEPS",
    "Factory",
    "Step",
    "fit_with",
    "loader",
    "module",
    "odd_batches",
    "odd_step",
    "rows",
    "step",
    "train",
    "trainer",
]

FEATURES, CLASSES, BATCH = 8, 5, 16
STEPS = 8  # of one `train`
NAN, INF = float("nan"), float("inf")

# What makes a fresh monitor, and a step of a module: ``step(module, batch, stage)``.
Factory = Callable[[], Any]
Step = Callable[[Any, list[Tensor], str], Any]


def rows(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features ``[count, 8]`` and the class of five each row belongs to, by a line drawn through them.

    Examples:
        >>> x, y = rows(100)
        >>> x.shape, sorted(set(y.tolist()))
        (torch.Size([100, 8]), [0, 1, 2, 3, 4])
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, FEATURES, generator=generator)
    line = torch.randn(FEATURES, CLASSES, generator=torch.Generator().manual_seed(12))
    return x, (x @ line).argmax(-1)


def step(module: Any, batch: list[Tensor], stage: str) -> Any:
    """The usual step: the criterion is a submodule, the loss is logged, and a dictionary comes back."""
    x, y = batch
    logits = module(x)
    loss = module.criterion(logits, y)
    if stage != "predict":
        module.log(f"{stage}_loss", loss, on_step=stage == "train", on_epoch=True)
    return {"loss": loss, "logits": logits, "targets": y}


def module(lightning: Any = None, step: Step = step) -> Any:
    """A LightningModule with dropout, batch normalisation, Adam and a schedule, drawn from torch's random numbers.

    A monitor may follow its sources by name: ``criterion``, ``head``, ``cross_entropy``.

    Args:
        lightning: The namespace; by default the first that is installed.
        step: What all its steps are.

    Examples:
        >>> [name for name, _ in module().named_children()]
        ['body', 'head', 'criterion']
    """
    lightning = lightning or namespaces()[0]

    class Specimen(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
            self.head = nn.Linear(16, CLASSES)
            self.criterion = nn.CrossEntropyLoss()

        def __reduce_ex__(self, protocol: Any) -> Any:
            # Lightning gives every callback methods of the module, and their copies and pickles would bring it along.
            return module, ()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.body(x))
            return logits

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            return step(self, batch, "train")

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            return step(self, batch, "val")

        def test_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            return step(self, batch, "test")

        def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            return step(self, batch, "predict")

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
            return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)}

    return Specimen()


def loader(count: int = 4 * BATCH, *, seed: int = 0, shuffle: bool = False) -> Any:
    """Batches of 16 `rows`."""
    return DataLoader(TensorDataset(*rows(count, seed=seed)), batch_size=BATCH, shuffle=shuffle)


def trainer(callbacks: Sequence[Any], *, lightning: Any = None, **options: Any) -> Any:
    """A quiet Trainer on the CPU for two epochs, with a logger that remembers; ``options`` are the Trainer's own."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": FaultyLogger(error=None),
        "log_every_n_steps": 2,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return (lightning or namespaces()[0]).Trainer(callbacks=list(callbacks), **(quiet | options))


def train(callbacks: Sequence[Any], *, lightning: Any = None, step: Step = step, **options: Any) -> Any:
    """Fit a fresh specimen: eight shuffled steps in two epochs, each with a validation. Returns the Trainer.

    Examples:
        >>> train([]).global_step
        8
    """
    made = trainer(callbacks, lightning=lightning, **options)
    made.fit(module(lightning, step), loader(shuffle=True), loader(2 * BATCH, seed=1))
    return made


def fit_with(monitor: Any, act: Callable[[Any], None], **options: Any) -> Any:
    """`train` a monitor, and call ``act(trainer)`` where a step has ended, the monitor's hooks included."""

    class AfterEachStep(LightningCallback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            act(trainer)

    return train([monitor, AfterEachStep()], lightning=namespaces_of(monitor)[0], **options)


def odd_batches() -> dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Functions of logits and targets that make of them what no monitor may stumble over, by what they are."""

    def with_rows(value: float, rows: Any, columns: Any = slice(None)) -> Any:
        def spoil(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            z[rows, columns] = value
            return z, y

        return spoil

    return {
        "NaN": with_rows(NAN, slice(0, 2), 0),
        "+inf": with_rows(INF, 1, 2),
        "-inf": with_rows(-INF, 1, 2),
        "rows of -inf": with_rows(-INF, slice(0, 3)),
        "nothing but NaN": with_rows(NAN, slice(None)),
        "every target ignored": lambda z, y: (z, torch.full_like(y, -100)),
        "targets out of range": lambda z, y: (z, torch.where(y == 0, 10**6, y - 1)),
        "no rows": lambda z, y: (z[:0], y[:0]),
        "one class": lambda z, y: (z[:, :1], torch.zeros_like(y)),
        "bfloat16": lambda z, y: (z.bfloat16(), y),
    }


def odd_step(kind: str) -> Step:
    """A step every source of which is given one of the `odd_batches`, while the loss is of something else."""
    return partial(_odd_step, kind, odd_batches()[kind])


def _odd_step(kind: str, spoil: Callable[[Tensor, Tensor], Any], module: Any, batch: list[Tensor], stage: str) -> Any:
    logits = module(batch[0])
    z, y = spoil(logits.detach().clone(), batch[1])
    observe(z, y)
    if kind != "targets out of range":  # which torch refuses
        module.criterion(z, y)
    loss = logits.square().mean()
    module.log(f"{stage}_loss", loss, on_epoch=True)
    return {"loss": loss, "logits": z, "targets": y}
