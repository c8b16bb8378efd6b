"""Fashion-MNIST, as Debian's package dataset-fashion-mnist lays it down: 28 x 28 pixels of ten kinds of clothing."""

import gzip
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["fashion"]

FOLDER = Path("/usr/share/datasets/fashion-mnist")


def fashion(part: str, folder: Path = FOLDER) -> tuple[Tensor, Tensor]:
    """Images ``[rows, 784]`` in ``[0, 1]`` and labels ``[rows]`` of ``"train"`` or of the test set, ``"t10k"``."""
    images = _numbers(folder / f"{part}-images-idx3-ubyte.gz", 16)
    labels = _numbers(folder / f"{part}-labels-idx1-ubyte.gz", 8)
    return images.view(-1, 784) / 255, labels.long()


def _numbers(path: Path, header: int) -> Tensor:
    """The bytes after the header."""
    return torch.frombuffer(bytearray(gzip.decompress(path.read_bytes())[header:]), dtype=torch.uint8)
