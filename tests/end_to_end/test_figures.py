"""Our figures of real logits arrive as pictures in TensorBoard and W&B."""

import io
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.drawn import nothing_global_changes
from helpers.event_files import accumulated
from helpers.models import digits, net
from helpers.wandb_file import offline_wandb, read_wandb, rows
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from logitwatch.figures.gap_heatmap import gap_heatmap_figure
from logitwatch.figures.recalibration import recalibration_figure
from logitwatch.figures.reliability import reliability_figure
from logitwatch.figures.risk_coverage import risk_coverage_figure
from logitwatch.sinks.readings import Figure
from logitwatch.sinks.tensorboard import TensorBoardSink
from logitwatch.sinks.wandb import WandbSink
from logitwatch.states.calibration_sketch import CalibrationSketch

TALL, LOW = (720, 870), (720, 630)


@cache
def sketches():
    """Of real digits, by epoch: a net that learns a hundred of them by heart."""
    (x, y), network = digits(), net(scale=1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    found = {}
    for epoch in range(5):
        for _ in range(10):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x[:100]), y[:100]).backward()
            optimizer.step()
        with torch.no_grad():
            found[epoch] = CalibrationSketch.of(network(x[100:]), y[100:])
    return found


def readings():
    seen = sketches()
    factories = {
        "reliability": partial(reliability_figure, seen[4]),
        "recalibration": partial(recalibration_figure, seen[4], seen[1]),
        "risk_coverage": partial(risk_coverage_figure, {"early": seen[1], "late": seen[4]}),
        "gaps": partial(gap_heatmap_figure, seen),
    }
    return [Figure(tag=f"calibration/val/{name}", step=3, factory=factory) for name, factory in factories.items()]


SIZES = {"reliability": TALL, "recalibration": TALL, "risk_coverage": LOW, "gaps": LOW}


def assert_drawn(image, size):
    assert image.size == size
    colours = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > 100  # lines and letters, not a blank


def test_figures_arrive_in_an_event_file(tmp_path):
    with nothing_global_changes(), SummaryWriter(str(tmp_path)) as writer:
        sink = TensorBoardSink(writer)
        sink.write(readings())
        sink.close()
    found = accumulated(tmp_path)
    for name, size in SIZES.items():
        (event,) = found.Images(f"calibration/val/{name}")
        assert event.step == 3
        assert_drawn(Image.open(io.BytesIO(event.encoded_image_string)), size)


def test_figures_arrive_in_an_offline_run(tmp_path):
    wandb = pytest.importorskip("wandb")
    with offline_wandb(tmp_path):
        run = wandb.init(project="figures", dir=str(tmp_path))
        with nothing_global_changes():
            sink = WandbSink(run)
            sink.write(readings())
            sink.close()
    (row,) = [row for row in rows(read_wandb(tmp_path)) if "trainer/global_step" in row]
    for name, size in SIZES.items():
        assert row[f"calibration/val/{name}/_type"] == "image-file"
        (file,) = Path(tmp_path).rglob(Path(row[f"calibration/val/{name}/path"]).name)
        assert_drawn(Image.open(file), size)
