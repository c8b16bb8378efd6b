"""Sketches to draw, what is in a picture, and what a drawing must leave as it was."""

import contextlib
import io

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot
from PIL import Image

from logitwatch.states.calibration_sketch import CalibrationSketch


def trained(*, scale=4.0, rows=900, seed=0):
    """Rows right as often as at scale 2: over-confident at 4, under-confident at 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 10, generator=generator)
    targets = (2 * logits).softmax(-1).multinomial(1, generator=generator)[:, 0]
    return CalibrationSketch.of(scale * logits, targets)


def one_bin():
    return CalibrationSketch.of(torch.tensor([[2.0, 0.0]] * 50), (torch.arange(50) < 10).long())


def pixels(figure):
    """The picture a figure makes, ``[height, width, 3]``."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


@contextlib.contextmanager
def nothing_global_changes():
    """Neither the user's style, nor a figure or axes that pyplot knows of."""
    mine = pyplot.figure()
    try:
        before = dict(matplotlib.rcParams)
        yield
        assert dict(matplotlib.rcParams) == before
        assert pyplot.get_fignums() == [mine.number]
        assert pyplot.gcf() is mine
        assert mine.axes == []
    finally:
        pyplot.close(mine)
