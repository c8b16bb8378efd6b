"""The head inside the loss is trained by DistributedDataParallel like any other."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers.ranks import on_ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from logitwatch.losses import LinearCrossEntropyLoss

ROWS, FEATURES, CLASSES = 6, 4, 9

pytestmark = pytest.mark.ranks


class Tied(nn.Module):
    """Predicts the next word with the embedding of the words."""

    def __init__(self, plain):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(CLASSES, FEATURES, generator=generator, dtype=torch.float64)
        self.embedding = nn.Embedding.from_pretrained(weight, freeze=False)
        self.plain, self.loss = plain, LinearCrossEntropyLoss(FEATURES, CLASSES, z_loss=0.1, dtype=torch.float64)
        self.loss.linear.weight = self.embedding.weight

    def forward(self, words, targets):
        hidden = self.embedding(words).tanh()
        if not self.plain:
            return self.loss(hidden, targets)
        z, counted = hidden @ self.embedding.weight.T, targets != -100
        penalty = (z.logsumexp(-1).square() * counted).sum() / counted.sum().clamp(min=1)
        # torch's mean over no row is NaN, ours is 0
        return F.cross_entropy(z, targets, reduction="sum") / counted.sum().clamp(min=1) + 0.1 * penalty


def words(rank, step):
    """On the second step the second rank has nothing to learn from."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    given = torch.randint(CLASSES, (2, ROWS), generator=generator)
    if (rank, step) == (1, 1):
        given[1] = -100
    return given


def train(rank, folder):
    dist.init_process_group("gloo")
    weights = []
    for plain in (False, True):
        module = Tied(plain)
        wrapped = DistributedDataParallel(module)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        for step in range(3):
            optimizer.zero_grad()
            wrapped(*words(rank, step)).backward()
            optimizer.step()
        weights.append(module.embedding.weight.detach())
    return weights


def test_ranks_train_the_weights_that_the_plain_loss_gives(tmp_path):
    found = on_ranks(train, 2, tmp_path)
    for ours, plain in found:
        torch.testing.assert_close(ours, plain)
    assert torch.equal(found[0][0], found[1][0])
