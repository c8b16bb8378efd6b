"""What the small examples share: a few hundred real digits, and a network that learns them in seconds."""

import torch
from pytorch_lightning import LightningModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

__all__ = ["Classifier", "loaders"]


class Classifier(LightningModule):
    """Two linear layers and a criterion; the steps are as in any Lightning project."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.criterion = criterion

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return self.criterion(self.net(images), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return self.criterion(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def loaders() -> tuple[DataLoader, DataLoader]:
    """300 digits to train on and 1497 to validate on."""
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16).float(), torch.tensor(labels))
    train, val = random_split(data, [300, len(data) - 300], torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size=16, shuffle=True), DataLoader(val, batch_size=512)
