"""Our cross-entropy beside torch's, forward and backward: ``python benchmarks/wide_loss.py --help``.

Lending is what a monitor asks for on the steps it looks at: the statistics of every row, left behind by the loss.
"""

import argparse
import gc
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from races import Cost, compared, environment, environment_line, markdown, turns, warn_of_load, write_json
from torch import Tensor

SHAPES = ("2048x32000", "512x50257", "4096x1000", "256x10")
BASELINE = "torch"
COLUMNS = (
    *("shape", "arm", "cpu ×", "cpu q1", "cpu q3", "cpu min ×", "cpu ms"),
    *("wall ×", "wall q1", "wall q3", "wall min ×", "wall ms"),
)
# A turn repeats the call until it takes about this long, so that the clocks resolve small shapes.
TURN_SECONDS = 0.05

Loss = Callable[[Tensor, Tensor], Tensor]


def arms() -> dict[str, Loss]:
    """The losses by name; the control is torch again, so its ratio is the noise."""
    from logitwatch.losses import CrossEntropyLoss

    ours, lender = CrossEntropyLoss(), CrossEntropyLoss()

    def lending(logits: Tensor, targets: Tensor) -> Tensor:
        lender.lent = {}
        try:
            return lender(logits, targets)
        finally:
            lender.lent = None

    return {BASELINE: F.cross_entropy, "control": F.cross_entropy, "ours": ours, "ours, lending": lending}


def forward_backward(loss: Loss, logits: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the logits, as a network receives it: not copied into a leaf."""
    (gradient,) = torch.autograd.grad(loss(logits, targets), logits)
    return gradient


def turn(loss: Loss, logits: Tensor, targets: Tensor, repeats: int) -> Cost:
    """Cost of one call."""
    gc.collect()
    start = Cost.now()
    for _ in range(repeats):
        forward_backward(loss, logits, targets)
    return Cost.now().since(start).per(repeats)


def measure(shape: str, rounds: int) -> dict[str, list[Cost]]:
    """Costs of each arm in order of the rounds."""
    num_rows, num_classes = map(int, shape.split("x"))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_rows, num_classes, generator=generator).mul_(3).requires_grad_()
    targets = torch.randint(num_classes, (num_rows,), generator=generator)
    losses = arms()
    expected = forward_backward(losses[BASELINE], logits, targets)
    for loss in losses.values():  # also warms up
        torch.testing.assert_close(forward_backward(loss, logits, targets), expected, rtol=1e-4, atol=1e-6)
    del expected
    repeats = math.ceil(TURN_SECONDS / turn(losses[BASELINE], logits, targets, 1).wall)
    costs: dict[str, list[Cost]] = {arm: [] for arm in losses}
    for _, arm in turns([*losses], rounds):
        costs[arm].append(turn(losses[arm], logits, targets, repeats))
    return costs


def rows(shape: str, costs: dict[str, list[Cost]]) -> list[list[str | float]]:
    """Rows of the table, in the order of `COLUMNS`."""
    result = []
    for arm, own in costs.items():
        row: list[str | float] = [shape, arm]
        for clock in Cost._fields:
            seconds, baseline = ([getattr(cost, clock) for cost in some] for some in (own, costs[BASELINE]))
            row += compared(seconds, baseline)
        result.append(row)
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="ROWSxCLASSES", help=" ".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=15, help="turns of each arm (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    before = environment()
    warn_of_load("start")
    table = [row for shape in options.shapes for row in rows(shape, measure(shape, options.rounds))]
    print(markdown(COLUMNS, table), environment_line(before), sep="\n\n")
    warn_of_load("end")
    if options.json:
        write_json(options.json, COLUMNS, table, before)


if __name__ == "__main__":
    main()
