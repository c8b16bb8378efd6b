"""The norm of the logits, epoch by epoch, under cross-entropy and LogitNorm; and telling digits from clothing by it.

Trains on scikit-learn's digits. Clothing is Fashion-MNIST, from Debian's package dataset-fashion-mnist or a folder that
holds its files: ``python logit_norm.py [FOLDER [dense]]``, where dense is for two linear layers, without convolutions.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from _digits import Classifier
from _fashion import FOLDER, fashion
from pytorch_lightning import Trainer, seed_everything
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset, random_split

import logitwatch
from logitwatch import functional
from logitwatch.losses import CrossEntropyLoss, LogitNormLoss
from logitwatch.sinks import read_jsonl

CRITERIA = {"cross-entropy": CrossEntropyLoss(), "LogitNorm": LogitNormLoss(temperature=0.04)}
SCORES: dict[str, Callable[[Tensor], Tensor]] = {  # higher for what looks like a digit
    "softmax": functional.log_odds,  # ranks as the largest probability does, and does not round to 1
    "max logit": lambda logits: logits.amax(-1),
    "energy": functional.energy,
}


def convolutions() -> nn.Module:
    first = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


def digits_in_two() -> list[Subset]:
    """1000 to train on, 797 that the model does not see."""
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images / 16).float(), torch.tensor(labels))
    return random_split(data, [1000, len(data) - 1000])


def train(model: Classifier, seen: Subset, unseen: Subset, epochs: int, out: str) -> dict[str, list[float]]:
    """What was logged, by tag: of training once an epoch."""
    loader = DataLoader(seen, batch_size=50, shuffle=True)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=out,
        log_every_n_steps=len(loader),
        callbacks=logitwatch.LogitMonitor(every_n_steps=1, rows=50),
    )
    trainer.fit(model, loader, DataLoader(unseen, batch_size=len(unseen)))
    logged: dict[str, list[float]] = {}
    for line in read_jsonl(f"{trainer.log_dir}/logitwatch.jsonl"):
        if line["kind"] == "scalar":
            logged.setdefault(line["tag"], []).append(line["value"])
    return logged


def separation(digits: Tensor, clothing: Tensor) -> dict[str, float]:
    """For each score AUROC, and the share of clothing that passes where 95% of digits do."""
    found = {}
    for name, score in SCORES.items():
        inside, outside = score(digits.double()), score(clothing.double())
        is_digit = torch.cat([torch.ones_like(inside), torch.zeros_like(outside)])
        found[f"AUROC, {name}"] = float(roc_auc_score(is_digit, torch.cat([inside, outside])))
        found[f"FPR95, {name}"] = (outside >= inside.quantile(0.05)).double().mean().item()
    return found


def main(
    out: str = "runs/logit_norm", seeds: int = 5, epochs: int = 60, folder: Path = FOLDER, dense: bool = False
) -> dict[str, Any]:
    pixels = fashion("t10k", folder)[0].view(-1, 1, 28, 28)
    clothing = F.avg_pool2d(F.pad(pixels, (2, 2, 2, 2)), 4).flatten(1)  # 8 x 8, as the digits are
    found: dict[str, Any] = {name: {"logged": [], "rows": []} for name in CRITERIA}
    for name, criterion in CRITERIA.items():
        for seed in range(seeds):
            seed_everything(seed)
            seen, unseen = digits_in_two()
            model = Classifier(criterion)
            model.net = model.net if dense else convolutions()
            logged = train(model, seen, unseen, epochs, out)
            digits = torch.stack([image for image, _ in unseen])
            with torch.no_grad():
                apart = separation(model.net(digits), model.net(clothing))
            found[name]["rows"].append({"accuracy": logged["logits/val/accuracy"][-1], **apart})
            found[name]["logged"].append(logged)
        print(f"{name}, mean and spread of {seeds} seeds")
        for measure in ("accuracy", *apart):
            values = [row[measure] for row in found[name]["rows"]]
            print(f"  {measure:<17} {mean(values):.3f} ± {stdev(values):.3f}")
    return found


if __name__ == "__main__":
    main(folder=Path(*sys.argv[1:2] or [FOLDER]), dense=sys.argv[2:] == ["dense"])
