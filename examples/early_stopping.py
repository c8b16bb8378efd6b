"""Stop when no temperature would make the model better, and keep the checkpoint that was best."""

from _digits import Classifier, loaders
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn

import logitwatch


def main(out: str = "runs/early_stopping", epochs: int = 50) -> Trainer:
    seed_everything(0)
    stopping = EarlyStopping(monitor="calibration/val/refinement", patience=5)
    checkpoint = ModelCheckpoint(monitor="calibration/val/refinement", filename="best")
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=out,
        callbacks=[*logitwatch.watch(), stopping, checkpoint],
    )
    trainer.fit(Classifier(nn.CrossEntropyLoss()), *loaders())
    print(f"Stopped after {trainer.current_epoch} of {epochs} epochs; least refinement {stopping.best_score:.3f} nats")
    print(f"The model that had it: {checkpoint.best_model_path}")
    return trainer


if __name__ == "__main__":
    main()
