"""Batches with NaN among the training data: what becomes of the network, and of one whose guard leaves them out."""

import torch
from _digits import Classifier, loaders
from pytorch_lightning import Trainer, seed_everything
from torch import nn

import logitwatch


class Corrupt(Classifier):
    """One training batch in a hundred has a pixel that is NaN."""

    def training_step(self, batch, batch_idx):
        if self.global_step % 100 == 99:
            batch[0][0, 0] = torch.nan
        return super().training_step(batch, batch_idx)


def main(out: str = "runs/stability", epochs: int = 20) -> dict[str, float]:
    accuracy = {}
    for action in ("warn", "skip_step"):
        seed_everything(0)
        guard = logitwatch.StabilityGuard(on_nonfinite=action)
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            default_root_dir=f"{out}/{action}",
            callbacks=[logitwatch.LogitMonitor(), guard],
        )
        model, (train, val) = Corrupt(nn.CrossEntropyLoss()), loaders()
        trainer.fit(model, train, val)
        right = [model.net(images).argmax(1) == labels for images, labels in val]
        accuracy[action] = torch.cat(right).float().mean().item()
        print(f'on_nonfinite="{action}": accuracy {accuracy[action]:.3f} after {trainer.global_step} steps')
    return accuracy


if __name__ == "__main__":
    main()
