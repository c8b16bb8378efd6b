"""What three losses do to the logits of one small network, on real digits. Takes half a minute on two cores.

The network sees 100 digits until it knows them by heart and is validated on the other 1697, so cross-entropy becomes
sure of more than it knows. Label smoothing holds the logits down; logit norm leaves their scale free.
"""

import argparse
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path

import torch
import wandb
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import logitwatch
from logitwatch.losses import CrossEntropyLoss, LabelSmoothingCrossEntropy, LogitNormLoss
from logitwatch.sinks import read_jsonl

CRITERIA = {
    "cross-entropy": CrossEntropyLoss(),
    "label-smoothing": LabelSmoothingCrossEntropy(0.1),
    "logit-norm": LogitNormLoss(temperature=0.04),
}
HEADINGS = ("accuracy", "confidence", "ECE", "null\nECE", "max\n|logit|", "entropy\n(nats)", "overhead")


class Classifier(LightningModule):
    """Two convolutions and two linear layers over 8x8 pixels. Nothing in it knows that it is watched."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        features = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
        head = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)]
        self.net = nn.Sequential(*features, *head)
        self.criterion = criterion

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return self.criterion(self.net(images), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.criterion(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def loaders() -> tuple[DataLoader, DataLoader]:
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.images).float().unsqueeze(1) / 16, torch.tensor(digits.target))
    train, val = random_split(data, [100, len(data) - 100], torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size=16, shuffle=True), DataLoader(val, batch_size=512)


def train(variant: str, out: Path, epochs: int, progress: Progress) -> list[str]:
    """Train one variant with the suite on. Returns its row of the table, read from the suite's own record."""
    seed_everything(0, verbose=False)
    bar = progress.add_task(f"{variant:>15}", total=epochs)
    online = WandbLogger(name=variant, project="logitwatch-digits", save_dir=out / variant, offline=True)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[*logitwatch.watch(), LambdaCallback(on_train_epoch_end=lambda *_: progress.advance(bar))],
        logger=[TensorBoardLogger(out, name=variant, version=""), online],
        check_val_every_n_epoch=10,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(CRITERIA[variant]), *loaders())
    online.experiment.finish()
    return summary(variant, out / variant / "logitwatch.jsonl")


def summary(variant: str, record: Path) -> list[str]:
    scalars = [line for line in read_jsonl(record) if line["kind"] == "scalar"]
    last = {line["tag"]: line["value"] for line in scalars}
    fractions = [last[f"calibration/val/{name}"] for name in ("accuracy", "confidence", "ece", "null_ece")]
    largest = max(last["logits/val/max"], -last["logits/val/min"])
    share, step = 0.0, 0  # each report tells of the steps since the one before it, the warm-up included
    for line in scalars:
        if line["tag"] == "logitwatch/overhead":
            share, step = share + line["value"] * (line["step"] - step), line["step"]
    others = f"{largest:.1f}", f"{last['logits/val/entropy']:.2f}", f"{share / step:.1%}"
    return [variant, *map("{:.3f}".format, fractions), *others]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="a new folder; numbered if it exists")
    parser.add_argument("--epochs", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)  # a network this small only waits for a second one
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    wandb.setup(wandb.Settings(mode="offline", silent=True))
    out, number = args.out, 1
    while out.exists():
        number += 1
        out = args.out.with_name(f"{args.out.name}-{number}")

    table = Table("loss", *(Column(heading, justify="right") for heading in HEADINGS), box=None, pad_edge=False)
    with Progress() as progress:
        for variant in CRITERIA:
            table.add_row(*train(variant, out, args.epochs, progress))
    console = Console(highlight=False)
    console.print(f"\nValidation on 1697 digits after {args.epochs} epochs on 100:\n", table, sep="\n")
    console.print("\nAn ECE near its null ECE is noise. Confidence above accuracy is over-confidence.")
    # scripts/demo has an environment of its own, which need not be on the PATH
    beside = os.path.relpath(Path(sys.executable).with_name("tensorboard"))
    tool = "tensorboard" if shutil.which("tensorboard") else beside
    console.print(f"\nOpen the dashboard:\n  {tool} --logdir {out}", soft_wrap=True)


if __name__ == "__main__":
    main()
