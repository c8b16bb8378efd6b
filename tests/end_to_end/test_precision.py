"""Every precision a Trainer has on a CPU: the numbers of the half-precision logits themselves, and the same weights."""

import re

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import expected_calibration, expected_logits, joined, last, texts
from helpers.models import loader, model, namespace, trainer
from torch import nn

import logitwatch
from logitwatch.losses import CrossEntropyLoss

L = namespace("pytorch_lightning")
WHOLE_RUN = 10**6
# Half-precision logits are lifted to float32, whose rounding is 6e-8; differences of two of them lose a digit or two.
CLOSE = {"rel": 1e-5, "abs": 1e-6}
# What the criterion returned is rounded to two digits in half precision, to seven in float32.
HALF, SINGLE, DOUBLE = 1e-2, 1e-6, 1e-14


def region(network, criterion, x, y):
    logits = network(x.to(network[0].weight.dtype))
    return logits, criterion(logits, y)


def inside(region, *given):
    with torch.autocast("cpu", torch.float16):
        return region(*given)


def outside(region, network, criterion, x, y):
    with torch.autocast("cpu", torch.float16):
        logits, _ = region(network, lambda logits, y: None, x, y)
    return logits, criterion(logits, y)


def plainly(region, *given):
    return region(*given)


# How the region is run, the precision of the Trainer, the type of the logits, how well the proof holds.
WAYS = {
    "bf16-mixed": (plainly, "bf16-mixed", torch.bfloat16, SINGLE),
    "bf16-true": (plainly, "bf16-true", torch.bfloat16, HALF),
    "64-true": (plainly, "64-true", torch.float64, DOUBLE),
    "float16 by hand": (inside, "32-true", torch.float16, SINGLE),
    "float16 by hand, criterion outside": (outside, "32-true", torch.float16, HALF),
}
CRITERIA = {"module": nn.CrossEntropyLoss, "function": lambda: F.cross_entropy, "ours": CrossEntropyLoss}


def fit(way, criterion, folder=None, *, compiled=False):
    run, precision, _, _ = way

    def step(module, batch, stage):
        in_graph = compiled and stage == "train"
        logits, loss = run(graph if in_graph else region, module.net, module.criterion, *batch)
        module.record(stage, logits, batch[1])
        return loss

    graph = torch.compile(region, backend="aot_eager")
    module = model(L, step, criterion=criterion)
    monitors = [] if folder is None else logitwatch.watch(every_n_steps=1, rows=10**9)
    options = {"precision": precision, "log_every_n_steps": WHOLE_RUN}
    trainer(L, monitors, folder=folder, **options).fit(module, loader(96), loader(32, start=128))
    return module


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("make", CRITERIA.values(), ids=CRITERIA.keys())
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_numbers_are_those_of_the_logits_and_the_weights_are_untouched(way, make, compiled, tmp_path, caplog):
    torch._dynamo.reset()
    plain = fit(way, make(), compiled=compiled)
    module = fit(way, make(), tmp_path, compiled=compiled)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), plain.parameters(), strict=True))
    assert module.recorded["train"][0][0].dtype == way[2]
    reported = last(tmp_path)
    in_graph = compiled and way[0] is not outside
    for stage in ("train", "val"):
        hidden = in_graph and stage == "train"  # from hooks, which get one look of the training
        recorded = module.recorded[stage][1 if hidden and isinstance(module.criterion, nn.Module) else 0 :]
        rows, targets = joined(recorded)
        expected = {f"logits/{stage}/{name}": value for name, value in expected_logits(rows, targets).items()}
        calibration = expected_calibration(rows, targets)
        expected |= {f"calibration/{stage}/{name}": value for name, value in calibration.items()}
        assert {tag: reported[tag] for tag in expected} == pytest.approx(expected, **CLOSE)
        (text,) = texts(tmp_path, f"logitwatch/capture/{stage}")
        assert f"{str(way[2]).removeprefix('torch.')}, 16 rows" in text
        residual = re.search(r"relative difference (\S+)\)", text)
        assert (residual is None) == isinstance(module.criterion, CrossEntropyLoss)
        assert residual is None or float(residual[1]) < way[3]
    assert "disagree" not in caplog.text
