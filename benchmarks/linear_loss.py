"""Our linear cross-entropy beside a head and torch's loss, forward and backward: ``python benchmarks/linear_loss.py``.

The plain arm computes no statistics. ``ours, lending`` leaves those of every row, as on a step a monitor looks at.
"""

import argparse
import gc
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from races import Comparison, Cost, compared, environment, environment_line, markdown, turns, warn_of_load, write_json
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

SHAPES = ("4096x512x32768", "1024x512x131072")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BASELINE = "plain"
COLUMNS = (
    "shape",
    "dtype",
    "arm",
    "cpu ×",
    "cpu q1",
    "cpu q3",
    "cpu min ×",
    "cpu ms",
    "peak MB",
    "plain / peak",
    "error",
)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """All logits at once."""
    return F.cross_entropy(hidden @ weight.T, targets)


def torch_chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Torch's own, with a number of rows that suits a CPU."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=256)
    return F.linear_cross_entropy(hidden, weight, targets, options=options)


def arms() -> dict[str, Loss]:
    """The losses by name; the control is plain again, so its ratio is the noise."""
    from logitwatch.losses import LinearCrossEntropyLoss, linear_cross_entropy

    def lending(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        loss = LinearCrossEntropyLoss(*reversed(weight.shape), device="meta")
        loss.linear.weight = weight
        loss.lent = {}
        value = loss(hidden, targets)
        assert "row_statistics" in loss.lent
        return value

    return {
        BASELINE: plain,
        "control": plain,
        "torch, 256 rows": torch_chunked,
        "ours": linear_cross_entropy,
        "ours, lending": lending,
    }


def forward_backward(loss: Loss, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The loss, after its gradients of hidden states and head."""
    value = loss(hidden, weight, targets)
    torch.autograd.grad(value, (hidden, weight))
    return value.detach()


def turn(loss: Loss, *batch: Tensor) -> Cost:
    """Cost of one call."""
    gc.collect()
    start = Cost.now()
    forward_backward(loss, *batch)
    return Cost.now().since(start)


def peak(loss: Loss, *batch: Tensor) -> float:
    """Megabytes allocated at one time beyond the batch; the gradients are among them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        forward_backward(loss, *batch)
    most = now = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most / 1e6


def batch(shape: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, a head whose logits have a standard deviation of 2, and targets."""
    rows, features, classes = map(int, shape.split("x"))
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, features, generator=generator)
    weight = torch.randn(classes, features, generator=generator).mul_(2 / features**0.5)
    targets = torch.randint(classes, (rows,), generator=generator)
    return hidden.to(dtype).requires_grad_(), torch.nn.Parameter(weight.to(dtype)), targets


def exact(hidden: Tensor, weight: Tensor, targets: Tensor) -> float:
    """The loss in float64, a few rows at a time."""
    total = 0.0
    with torch.no_grad():
        head = weight.double()
        for rows, some in zip(hidden.split(64), targets.split(64), strict=True):
            total += F.cross_entropy(rows.double() @ head.T, some, reduction="sum").item()
    return total / len(targets)


def rows(shape: str, dtype: str, rounds: int, chosen: list[str]) -> list[list[str | float]]:
    """Rows of the table, in the order of `COLUMNS`."""
    data = batch(shape, DTYPES[dtype])
    losses = {name: loss for name, loss in arms().items() if name in (BASELINE, *chosen)}
    values = {name: forward_backward(loss, *data).item() for name, loss in losses.items()}  # also warms up
    truth = exact(*data)
    peaks = {name: peak(loss, *data) for name, loss in losses.items()}
    costs: dict[str, list[Cost]] = {name: [] for name in losses}
    for _, name in turns([*losses], rounds):
        costs[name].append(turn(losses[name], *data))
    table = []
    for name, own in costs.items():
        ratio: Comparison = compared([cost.cpu for cost in own], [cost.cpu for cost in costs[BASELINE]])
        error = f"{abs(values[name] / truth - 1):.1e}"
        table.append([shape, dtype, name, *ratio, peaks[name], peaks[BASELINE] / peaks[name], error])
    return table


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="ROWSxFEATURESxCLASSES", help=" ".join(SHAPES))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=DTYPES)
    parser.add_argument("--arms", nargs="+", default=["control", "ours", "ours, lending"], choices=list(arms()))
    parser.add_argument("--rounds", type=int, default=7, help="turns of each arm (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    before = environment()
    warn_of_load("start")
    table = [
        row
        for shape in options.shapes
        for dtype in options.dtypes
        for row in rows(shape, dtype, options.rounds, options.arms)
    ]
    print(markdown(COLUMNS, table), environment_line(before), sep="\n\n")
    warn_of_load("end")
    if options.json:
        write_json(options.json, COLUMNS, table, before)


if __name__ == "__main__":
    main()
