"""Arms that take turns: who runs when, what each cost beside the baseline of its own round, and on which machine."""

import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import logitwatch

__all__ = [
    "Comparison",
    "Cost",
    "compared",
    "environment",
    "environment_line",
    "markdown",
    "turns",
    "warn_of_load",
    "write_json",
]

SEED = 0
# The process under test, its writer thread and the shell: no reason yet to doubt the numbers.
LOAD_MARGIN = 0.5


class Cost(NamedTuple):
    """Seconds: of the whole process on all its threads, and of the clock on the wall."""

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> "Cost":
        return cls(time.process_time(), time.perf_counter())

    def since(self, start: "Cost") -> "Cost":
        return Cost(self.cpu - start.cpu, self.wall - start.wall)

    def per(self, count: int) -> "Cost":
        return Cost(self.cpu / count, self.wall / count)


class Comparison(NamedTuple):
    """What one arm cost over all rounds, on one of the two clocks."""

    ratio: float
    """Median over rounds of its cost divided by that of the baseline in the same round."""
    low: float
    """Lower quartile of those ratios."""
    high: float
    """Upper quartile of those ratios."""
    of_minima: float
    """Its cheapest round divided by the cheapest round of the baseline."""
    milliseconds: float
    """Median over rounds of its own cost."""


def turns(arms: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Round and arm, every arm once a round, in a new order each round so that no arm always runs behind another."""
    order = random.Random(SEED)
    for number in range(rounds):
        for arm in order.sample(arms, len(arms)):
            yield number, arm


def compared(seconds: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """One arm beside the baseline; both sequences are in order of the rounds."""
    ratios = [own / other for own, other in zip(seconds, baseline, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Comparison(median, low, high, min(seconds) / min(baseline), 1000 * statistics.median(seconds))


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table, aligned so that it also reads in a terminal; numbers to three decimals."""
    cells = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [list(columns), ["-" * width for width in widths], *cells]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )


def environment() -> dict[str, Any]:
    """What the numbers depend on. Taken before and after, it also says whether the machine was quiet."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "logitwatch": logitwatch.__version__,
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
    }


def environment_line(before: dict[str, Any]) -> str:
    """The environment as one item of a Markdown list, the load of now beside that of then."""
    items = ", ".join(f"{name} {value}" for name, value in before.items())
    return f"- {items} at the start and {environment()['load']} at the end"


def write_json(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]], env: dict[str, Any]) -> None:
    """The same table as a file, with the environment it was measured in."""
    content = {"environment": env, "table": [dict(zip(columns, row, strict=True)) for row in rows]}
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def warn_of_load(when: str) -> None:
    """Say on stderr that the machine is doing more than this benchmark."""
    load, threads = os.getloadavg()[0], torch.get_num_threads()
    if load > threads + LOAD_MARGIN:
        print(
            f"warning: load {load:.2f} at the {when} with {threads} thread(s) of ours; others are running, "
            "and the ratios are not to be trusted",
            file=sys.stderr,
        )
