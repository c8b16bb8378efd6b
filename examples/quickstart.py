import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

import logitwatch


class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


seed_everything(0)
images, labels = load_digits(return_X_y=True)
digits = TensorDataset(torch.tensor(images / 16).float(), torch.tensor(labels))
train, val = random_split(digits, [300, 1497])

trainer = Trainer(max_epochs=20, callbacks=logitwatch.watch())  # the one line
trainer.fit(Classifier(), DataLoader(train, batch_size=16, shuffle=True), DataLoader(val, batch_size=512))

for name in ("logits/val/max", "logits/val/entropy", "calibration/val/ece", "calibration/val/null_ece"):
    print(f"{name:<24} {trainer.callback_metrics[name]:.3f}")
