"""Losses add: cross-entropy, and a z-loss that holds the log-partition at 0. Each term is logged under its own name."""

from _digits import Classifier, loaders
from pytorch_lightning import Trainer, seed_everything

import logitwatch
from logitwatch.losses import CrossEntropyLoss, LogitLoss, ZLoss
from logitwatch.sinks import read_jsonl

CRITERIA: dict[str, LogitLoss] = {
    "cross-entropy": CrossEntropyLoss(),
    "cross-entropy and z-loss": CrossEntropyLoss() + ZLoss(0.01),
}
SHOWN = ("logits/val/log_partition", "losses/val/cross_entropy", "losses/val/z_loss")


def train(criterion: LogitLoss, out: str, epochs: int) -> dict[str, float]:
    """The last value of every scalar the suite logged."""
    seed_everything(0)
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=out, callbacks=logitwatch.watch())
    trainer.fit(Classifier(criterion), *loaders())
    record = read_jsonl(f"{trainer.log_dir}/logitwatch.jsonl")
    return {line["tag"]: line["value"] for line in record if line["kind"] == "scalar"}


def main(out: str = "runs/losses", epochs: int = 20) -> dict[str, dict[str, float]]:
    seen = {name: train(criterion, out, epochs) for name, criterion in CRITERIA.items()}
    for name, values in seen.items():
        print(f"{name}:", ", ".join(f"{tag} {values[tag]:.3f}" for tag in SHOWN if tag in values))
    return seen


if __name__ == "__main__":
    main()
