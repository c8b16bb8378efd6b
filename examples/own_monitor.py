"""A monitor of one's own: the rank of the target among the classes. It need not be in the package to be held to it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from _digits import Classifier, loaders
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor, nn

from logitwatch.callbacks import Monitor
from logitwatch.callbacks.tags import Tags
from logitwatch.capture import Observation
from logitwatch.functional import target_rank
from logitwatch.sinks import Reading, Scalars
from logitwatch.sinks.glossary import QUANTITIES, Quantity
from logitwatch.states.protocol import merge_fields, summed
from logitwatch.testing import check_monitor

QUANTITIES["ranks/mean"] = Quantity("classes", "classes that score higher than the target; 0 where it is predicted")


@dataclass(frozen=True)
class Ranks:
    """What is kept of any number of rows: how many, and the sum of their ranks."""

    count: Tensor = summed()
    total: Tensor = summed()

    def merge(self, other: "Ranks") -> "Ranks":
        return merge_fields(self, other)


class RankMonitor(Monitor):
    """Logs ``ranks/<stage>/mean``."""

    def empty(self, device: torch.device) -> Ranks:
        nothing = torch.zeros((), dtype=torch.int64, device=device)
        return Ranks(nothing, nothing)

    def summary(
        self, observation: Observation, sample: Observation, terms: Mapping[str, Tensor] | None, *, histograms: bool
    ) -> Ranks | None:
        targets = sample.targets
        if targets is None or targets.ndim != 1 or sample.binary:
            return None  # probabilities have no rank
        counted = sample.valid & ~sample.bad_target & sample.log_partition.isfinite()
        ranks = target_rank(sample.logits, targets.clamp(0, sample.num_classes - 1).long())
        return Ranks(counted.sum(), (ranks * counted).sum())

    def readings(self, state: Ranks, tags: Tags, step: int) -> list[Reading]:
        values = {tags("ranks", "mean"): int(state.total) / int(state.count)} if state.count else {}
        return [Scalars(values=values, step=step)]

    def rows_in(self, state: Ranks) -> int:
        return int(state.count)


def main(out: str = "runs/own_monitor", epochs: int = 5) -> float:
    check_monitor(RankMonitor)  # what a test of it says; it raises with a list of what the monitor does wrong
    seed_everything(0)
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=out, callbacks=RankMonitor())
    trainer.fit(Classifier(nn.CrossEntropyLoss()), *loaders())
    rank = trainer.callback_metrics["ranks/val/mean"].item()
    print(f"Digits that score higher than the right one: {rank:.3f} on average")
    return rank


if __name__ == "__main__":
    main()
