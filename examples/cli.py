"""LightningCLI with the monitors in YAML: ``python examples/cli.py fit -c configs/digits.yaml``.

Both namespaces take the same file; ``--namespace lightning.pytorch`` chooses the other one. A project has one of them
and would import it at the top.
"""

import argparse
import importlib
import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

NAMESPACES = ("pytorch_lightning", "lightning.pytorch")


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--namespace", choices=NAMESPACES, default=NAMESPACES[0])
    options, sys.argv[1:] = parser.parse_known_args()  # LightningCLI reads what is left
    lightning = importlib.import_module(options.namespace)
    cli = importlib.import_module(f"{options.namespace}.cli")

    class Classifier(lightning.LightningModule):
        """A linear layer, a hidden layer and a criterion.

        Args:
            criterion: Loss of logits and labels.
            width: Units of the hidden layer.
        """

        def __init__(self, criterion: nn.Module, width: int = 128) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
            self.criterion = criterion

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return self.criterion(self.net(batch[0]), batch[1])

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.criterion(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=3e-3)

    class Digits(lightning.LightningDataModule):
        """Real digits, a few to train on and the others to validate on."""

        def __init__(self, batch_size: int = 16) -> None:
            super().__init__()
            self.batch_size = batch_size

        def setup(self, stage: str) -> None:
            images, labels = load_digits(return_X_y=True)
            data = TensorDataset(torch.tensor(images / 16).float(), torch.tensor(labels))
            self.parts = random_split(data, [300, len(data) - 300], torch.Generator().manual_seed(0))

        def train_dataloader(self) -> DataLoader:
            return DataLoader(self.parts[0], batch_size=self.batch_size, shuffle=True)

        def val_dataloader(self) -> DataLoader:
            return DataLoader(self.parts[1], batch_size=512)

    cli.LightningCLI(Classifier, Digits)


if __name__ == "__main__":
    main()
