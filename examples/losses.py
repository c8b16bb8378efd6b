"""Losses add: cross-entropy, and a z-loss that holds the log-partition. Each term is logged under its own name."""

from _digits import Classifier, loaders
from pytorch_lightning import Trainer, seed_everything

import logitwatch
from logitwatch.losses import CrossEntropyLoss, LogitLoss, ZLoss

CRITERIA: dict[str, LogitLoss] = {
    "cross-entropy": CrossEntropyLoss(),
    "cross-entropy and z-loss": CrossEntropyLoss() + ZLoss(0.01),
}


def main(out: str = "runs/losses", epochs: int = 20) -> None:
    for name, criterion in CRITERIA.items():
        seed_everything(0)
        trainer = Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=out, callbacks=logitwatch.watch())
        trainer.fit(Classifier(criterion), *loaders())
        print(f"{name}: {trainer.callback_metrics['logits/val/norm']:.1f} is the mean norm of the logits")
    print(f"The terms are under losses/:\n  tensorboard --logdir {out}")


if __name__ == "__main__":
    main()
