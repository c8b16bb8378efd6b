"""A training on two ranks, as a script: ``python ddp_script.py STRATEGY FOLDER``. Lightning starts the other rank."""

import sys

import torch
from helpers.models import loader, namespace, net, trainer

import logitwatch

lightning = namespace("pytorch_lightning")


class Digits(lightning.LightningModule):
    """Where a spawned process can find it."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(strategy, folder):
    torch.set_num_threads(1)
    how = lightning.strategies.DDPStrategy(
        process_group_backend="gloo", start_method={"ddp": "popen", "ddp_fork": "fork", "ddp_spawn": "spawn"}[strategy]
    )
    monitors = logitwatch.watch(every_n_steps=1, rows=10**9)
    t = trainer(lightning, monitors, folder=folder, strategy=how, devices=2, log_every_n_steps=1000)
    t.fit(Digits(), loader(64), loader(48, start=200))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
