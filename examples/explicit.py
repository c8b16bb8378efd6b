"""A loss the suite does not know, a margin loss of torch's: one line in the step hands over logits and labels."""

from _digits import Classifier, loaders
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor, nn

import logitwatch


class MarginClassifier(Classifier):
    """`nn.MultiMarginLoss` makes no probabilities, so nothing but the step can say that these are logits."""

    def __init__(self) -> None:
        super().__init__(nn.MultiMarginLoss())

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(*batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.step(*batch)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.net(images)
        logitwatch.observe(logits, labels)  # does nothing where no monitor is attached
        return self.criterion(logits, labels)


def main(out: str = "runs/explicit", epochs: int = 20) -> dict[str, Tensor]:
    seed_everything(0)
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=out, callbacks=logitwatch.watch())
    trainer.fit(MarginClassifier(), *loaders())
    seen = trainer.callback_metrics
    print(f"accuracy {seen['calibration/val/accuracy']:.3f}, confidence {seen['calibration/val/confidence']:.3f}")
    return seen


if __name__ == "__main__":
    main()
