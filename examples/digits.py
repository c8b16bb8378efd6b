"""What three losses do to the logits of one small network, on real digits. Takes half a minute on two cores.

The network is trained on 300 digits until it knows them by heart, and validated on the other 1497: the classic way to
become sure of too much. Cross-entropy is the baseline; label smoothing and logit norm hold the logits in different ways.
"""

import argparse
import logging
import os
import statistics
import warnings
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import logitwatch
from logitwatch.losses import CrossEntropyLoss, LabelSmoothingCrossEntropy, LogitNormLoss
from logitwatch.sinks import read_jsonl

VARIANTS = {
    "cross-entropy": CrossEntropyLoss(),
    "label-smoothing": LabelSmoothingCrossEntropy(0.1),
    "logit-norm": LogitNormLoss(temperature=0.1),
}


class Classifier(LightningModule):
    """Two convolutions and two linear layers over 8x8 pixels; nothing in it knows that it is watched."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10)),
        )
        self.criterion = criterion

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return self.criterion(self.net(images), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.criterion(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def loaders() -> tuple[DataLoader, DataLoader]:
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.images).float().unsqueeze(1) / 16, torch.tensor(digits.target))
    train, val = random_split(data, [300, len(data) - 300], torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size=16, shuffle=True), DataLoader(val, batch_size=256)


def train(variant: str, epochs: int, out: Path, progress: Progress) -> dict[str, list[float]]:
    """Train one variant with the suite on; every scalar the suite wrote, by tag, read back from its own record."""
    seed_everything(0, verbose=False)
    bar = progress.add_task(f"{variant:>16}", total=epochs)
    wandb = WandbLogger(name=variant, project="logitwatch-digits", save_dir=out / variant, offline=True)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*logitwatch.watch(), LambdaCallback(on_train_epoch_end=lambda *_: progress.advance(bar))],
        logger=[TensorBoardLogger(out, name=variant, version=""), wandb],
        log_every_n_steps=20,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(VARIANTS[variant]), *loaders())
    wandb.experiment.finish()
    history: dict[str, list[float]] = {}
    for record in read_jsonl(out / variant / "logitwatch.jsonl"):
        if record["kind"] == "scalar":
            history.setdefault(record["tag"], []).append(record["value"])
    return history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    os.environ["WANDB_SILENT"] = "true"
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    out = next(path for n in range(1, 1000) if not (path := args.out if n == 1 else Path(f"{args.out}-{n}")).exists())

    with Progress() as progress:
        seen = {variant: train(variant, args.epochs, out, progress) for variant in VARIANTS}

    table = Table("loss", "accuracy", "ECE", "ECE if calibrated", "max |logit|", "entropy", "overhead", title="validation")
    for variant, history in seen.items():
        last = {tag: values[-1] for tag, values in history.items()}
        table.add_row(
            variant,
            f"{last['calibration/val/accuracy']:.3f}",
            f"{last['calibration/val/ece']:.3f}",
            f"{last['calibration/val/null_ece']:.3f}",
            f"{max(last['logits/val/max'], -last['logits/val/min']):.1f}",
            f"{last['logits/val/entropy']:.3f} nats",
            f"{statistics.median(history['logitwatch/overhead']):.1%}",
        )
    console = Console()
    console.print(table)
    console.print(f"Open the dashboard:  tensorboard --logdir {out}", highlight=False)


if __name__ == "__main__":
    main()
