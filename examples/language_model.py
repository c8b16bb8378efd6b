"""A language model of characters, watched position by position; the padding is ignored and counted as such.

The text is Python's own reference, which comes with Python, so its length depends on the version.
"""

from pydoc_data.topics import topics

import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.utils.data import DataLoader

import logitwatch

PADDING = -100


class LanguageModel(LightningModule):
    """A recurrent network over bytes, with logits ``[batch, positions, 256]``."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.layers = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 256)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.loss(batch)

    def loss(self, tokens: Tensor) -> Tensor:
        inputs, targets = tokens[:, :-1].clamp(min=0), tokens[:, 1:]
        states, _ = self.layers(self.embedding(inputs))
        return cross_entropy(self.head(states).flatten(0, 1), targets.flatten(), ignore_index=PADDING)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def paragraphs(longest: int = 128) -> list[Tensor]:
    """Paragraphs of the text as bytes, cut or padded to one length."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    texts = [paragraph for paragraph in text.split("\n\n") if len(paragraph) > 20]
    tokens = [torch.tensor(list(paragraph.encode()[:longest])) for paragraph in texts]
    return [pad(row, (0, longest - len(row)), value=PADDING) for row in tokens]


def main(out: str = "runs/language_model", steps: int = 150) -> dict[str, Tensor]:
    seed_everything(0)
    rows = paragraphs()
    train, val = DataLoader(rows[200:], batch_size=32, shuffle=True), DataLoader(rows[:200], batch_size=50)
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=steps,
        accelerator="cpu",
        default_root_dir=out,
        callbacks=logitwatch.watch(),
    )
    trainer.fit(LanguageModel(), train, val)
    seen = trainer.callback_metrics
    print(f"NLL {seen['logits/val/nll']:.2f} nats a byte, entropy {seen['logits/val/entropy']:.2f} nats")
    return seen


if __name__ == "__main__":
    main()
