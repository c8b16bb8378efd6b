"""What is trained: three networks whose steps take about 1, 70 and 500 ms, on real data that needs no download."""

import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["TASKS", "Batch", "Task"]

Batch = tuple[Tensor, Tensor]

VOCABULARY = 8000
BATCH, TOKENS = 4, 256


class Task(NamedTuple):
    """A network, the batches it sees over and over, and how long to run it."""

    network: Callable[[], nn.Module]
    batches: Callable[[], list[Batch]]
    num_classes: int
    steps: int
    rounds: int


class Transformer(nn.Module):
    """A causal language model: four layers, 256 wide."""

    def __init__(self, width: int = 256, layers: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(torch.randn(TOKENS, width) / 50)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, VOCABULARY)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(TOKENS))

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.layers(self.words(words) + self.places, mask=self.mask, is_causal=True)
        return self.head(hidden)


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def _convolutions() -> nn.Module:
    def block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)

    return nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 128), nn.Flatten(), nn.Linear(2048, 10))


def _digits() -> list[Batch]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    pixels, labels = torch.tensor(digits.data).float()[order] / 16, torch.tensor(digits.target)[order]
    return [(x, y) for x, y in zip(pixels.split(64), labels.split(64), strict=True) if len(y) == 64]


def _coloured_digits() -> list[Batch]:
    return [(F.interpolate(x.view(-1, 1, 8, 8), size=32, mode="bilinear").repeat(1, 3, 1, 1), y) for x, y in _digits()]


def _help_texts() -> list[Batch]:
    """Python's own help topics, 114,000 words; hash() differs from process to process, so a checksum numbers them."""
    from pydoc_data.topics import topics

    words = re.findall(r"\w+|[^\w\s]", "\n".join(topics[name] for name in sorted(topics)))
    numbers = torch.tensor([zlib.crc32(word.encode()) % VOCABULARY for word in words])
    size = BATCH * TOKENS
    starts = range(0, len(numbers) - size, size)
    return [(numbers[i : i + size].view(BATCH, -1), numbers[i + 1 : i + 1 + size].view(BATCH, -1)) for i in starts]


TASKS = {
    "digits": Task(_perceptron, _digits, 10, steps=4000, rounds=8),
    "conv": Task(_convolutions, _coloured_digits, 10, steps=200, rounds=6),
    "lm": Task(Transformer, _help_texts, VOCABULARY, steps=60, rounds=4),
}
