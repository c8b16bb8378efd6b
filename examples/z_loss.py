"""A transformer over bytes at learning rates that are too high: where the log-partition goes without a z-loss and with.

The text is Python's own reference, which comes with Python, so its length depends on the version.
"""

from pydoc_data.topics import topics
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.data import DataLoader

import logitwatch
from logitwatch.losses import CrossEntropyLoss, LogitLoss, ZLoss
from logitwatch.sinks import read_jsonl

CRITERIA: dict[str, LogitLoss] = {
    "no z-loss": CrossEntropyLoss(),
    "ZLoss(1e-4)": CrossEntropyLoss() + ZLoss(1e-4),
    "ZLoss(1e-2)": CrossEntropyLoss() + ZLoss(1e-2),
}
RATES = (0.01, 0.03, 0.1)
STEPS, LOOKS = 4000, 20  # of the optimizer, and at the text that is not trained on
POSITIONS, WIDTH, HEADS = 16, 32, 4


class Transformer(LightningModule):
    """One block, with logits ``[batch, positions, 256]``."""

    def __init__(self, criterion: LogitLoss, rate: float) -> None:
        super().__init__()
        self.criterion, self.rate = criterion, rate
        self.embedding = nn.Embedding(256, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(POSITIONS, WIDTH))
        self.mixing = nn.ModuleList([nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)])
        wide = 4 * WIDTH
        self.thinking = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, wide), nn.GELU(), nn.Linear(wide, WIDTH))
        self.head = nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 256))

    def forward(self, tokens: Tensor) -> Tensor:
        norm, into, out = self.mixing
        x = self.embedding(tokens) + self.place
        query, key, value = into(norm(x)).unflatten(-1, (3 * HEADS, -1)).transpose(1, 2).chunk(3, 1)
        x = x + out(scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2))
        return self.head(x + self.thinking(x))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.criterion(self(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> dict[str, Any]:
        adam = torch.optim.AdamW(self.parameters(), self.rate, (0.9, 0.95), weight_decay=0.0, fused=True)
        warm = torch.optim.lr_scheduler.LinearLR(adam, 0.01, total_iters=50)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": warm, "interval": "step"}}


def train(criterion: LogitLoss, rate: float, seed: int, steps: int, out: str) -> dict[str, list[float]]:
    """What was logged of 1000 pieces of text that are not trained on, by tag, once a look."""
    seed_everything(seed)
    text = "\n\n".join(topics[name] for name in sorted(topics)).encode()
    pieces = torch.tensor(list(text)).unfold(0, POSITIONS + 1, POSITIONS)
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(0))
    trainer = Trainer(
        max_steps=steps,
        val_check_interval=steps // LOOKS,
        accelerator="cpu",
        gradient_clip_val=1.0,
        default_root_dir=out,
        callbacks=logitwatch.LogitMonitor(every_n_steps=50),
    )
    train, val = DataLoader(pieces[order[1000:]], shuffle=True), DataLoader(pieces[order[:1000]], batch_size=500)
    trainer.fit(Transformer(criterion, rate), train, val)
    logged: dict[str, list[float]] = {}
    for line in read_jsonl(f"{trainer.log_dir}/logitwatch.jsonl"):
        if line["kind"] == "scalar":
            logged.setdefault(line["tag"], []).append(line["value"])
    return logged


def main(out: str = "runs/z_loss", seeds: int = 2, steps: int = STEPS) -> dict[tuple[str, float], Any]:
    found = {}
    print(f"after {steps} steps, nats, {seeds} seeds:    log-partition     NLL")
    for rate in RATES:
        for name, criterion in CRITERIA.items():
            runs = found[name, rate] = [train(criterion, rate, seed, steps, out) for seed in range(seeds)]
            last = [[run[f"logits/val/{tag}"][-1] for run in runs] for tag in ("log_partition", "nll")]
            print(f"learning rate {rate:<5} {name:<12}", *(f"{value:9.2f}" for values in last for value in values))
    return found


if __name__ == "__main__":
    main()
