"""Attention logits that grow: too high a learning rate with and without normalised queries and keys, side by side."""

import torch
import torch.nn.functional as F
from _digits import Classifier, loaders
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor, nn

import logitwatch

WIDTH, HEADS = 64, 4


class Attention(nn.Module):
    """Attention as it is usually written; nothing in it knows that it is watched."""

    def __init__(self, qk_norm: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH // HEADS, elementwise_affine=False) if qk_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        attended = F.scaled_dot_product_attention(self.norm(q), self.norm(k), v)
        return x + self.out(attended.transpose(1, 2).flatten(2))


def network(qk_norm: bool) -> nn.Module:
    """Each row of a digit's picture is a token."""
    layers = [Attention(qk_norm) for _ in range(3)]
    return nn.Sequential(nn.Unflatten(1, (8, 8)), nn.Linear(8, WIDTH), *layers, nn.Flatten(), nn.Linear(8 * WIDTH, 10))


class Fast(Classifier):
    """Digits, with a learning rate that is too high."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def main(epochs: int = 10) -> dict[str, dict[str, float]]:
    """Train both; what each said of its attention in validation."""
    seen = {}
    for name, qk_norm in (("as usual", False), ("QK-norm", True)):
        seed_everything(0)
        module = Fast(nn.CrossEntropyLoss())
        module.net = network(qk_norm)
        monitor = logitwatch.AttentionMonitor(every_n_steps=1)
        trainer = Trainer(
            callbacks=monitor, max_epochs=epochs, logger=False, enable_checkpointing=False, log_every_n_steps=10
        )
        trainer.fit(module, *loaders())
        seen[name] = {tag: float(value) for tag, value in trainer.callback_metrics.items() if "attention/val" in tag}
        logits, bound, entropy = (seen[name][f"attention/val/{q}"] for q in ("max_logit", "max_logit_bound", "entropy"))
        print(f"{name}: attention logits up to {logits:.1f} (at most {bound:.1f}), entropy {entropy:.2f}")
    return seen


if __name__ == "__main__":
    main()
