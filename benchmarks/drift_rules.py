"""Our detectors beside the rules of other tools, on simulated losses: ``python benchmarks/drift_rules.py --help``.

How often each rule alarms where nothing happens, and how soon where something does. Nothing is timed, so that a busy
machine changes nothing.
"""

import argparse
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import count, product
from pathlib import Path
from typing import NamedTuple

from races import environment, environment_line, markdown, write_json

from logitwatch.drift.detectors import Cusum, EProcess, PageHinkley, RollingZScore
from logitwatch.drift.verdict import Detector

# A loss of 3 nats with a standard deviation of 0.05 from step to step.
LEVEL, DEVIATION = 3.0, 0.05
# Healthy steps ahead of what counts: our longest warm-up, and as much again.
HEALTHY = 1024
# At most one false alarm in 10,000 steps over all rules.
BUDGET = 1e-4
# Steps in which values forget their beginning.
BURN_IN = 300

Rule = Callable[[float], bool]


class Noise(NamedTuple):
    """An autoregression of order one, alone or on a curve that falls."""

    freedom: int  # of Student's t; 0 for Gaussian
    memory: float
    fall: float = 0.0  # in all, in standard deviations; half of it in the first 300 steps

    def values(self, seed: int) -> Iterator[float]:
        """Endless, with standard deviation one about the curve, which ends at zero."""
        draw, x = random.Random(seed), 0.0
        size = math.sqrt(1 - self.memory**2)
        for step in count(-BURN_IN):
            z = draw.gauss(0.0, 1.0)
            if self.freedom:
                z *= math.sqrt((self.freedom - 2) / (2 * draw.gammavariate(self.freedom / 2, 1.0)))
            x = self.memory * x + size * z
            if step >= 0:
                yield x + self.fall / (1 + step / 300)


NOISES = {
    "Gaussian": Noise(0, 0.0),
    "AR 0.5": Noise(0, 0.5),
    "AR 0.9": Noise(0, 0.9),
    "t3": Noise(3, 0.0),
    "t4, AR 0.5": Noise(4, 0.5),
    "falling, AR 0.5": Noise(0, 0.5, 40.0),
}


class Change(NamedTuple):
    """What is added to the loss after the healthy steps, in nats, and how long it may take to be found."""

    height: float
    per_step: float
    steps: int

    def at(self, step: int) -> float:
        """Its size so many steps after its beginning."""
        return self.height + self.per_step * (step + 1)


CHANGES = {
    "6 sd, 10 steps": Change(6 * DEVIATION, 0.0, 10),
    "20 sd, 10 steps": Change(20 * DEVIATION, 0.0, 10),
    "6 sd, 1 step": Change(6 * DEVIATION, 0.0, 1),
    "0.001 a step": Change(0.0, 0.001, 500),
    "0.01 a step": Change(0.0, 0.01, 500),
}


def lightning() -> Rule:
    """`SpikeDetection` with its defaults: worse than the last ten by twice their mean. It ends the run there."""
    last: deque[float] = deque(maxlen=10)

    def rule(x: float) -> bool:
        mean = statistics.fmean(last) if last else x
        alarm = bool(last) and x > 0 and abs(x - mean) >= 2 * abs(mean)
        if not alarm:
            last.append(x)
        return alarm

    return rule


def megatron() -> Rule:
    """``is_unexpectedly_large``: ten times the largest of the first hundred."""
    seen, largest = 0, -math.inf

    def rule(x: float) -> bool:
        nonlocal seen, largest
        if seen < 100:
            seen, largest = seen + 1, max(largest, x)
            return False
        return x >= 10 * largest

    return rule


def rolling(window: int, sigmas: float) -> Callable[[], Rule]:
    """So many standard deviations above the mean of the last; 128 and 6 are those of OLMo, levanter and MaxText."""

    def make() -> Rule:
        last: deque[float] = deque()
        total = squares = 0.0

        def rule(x: float) -> bool:
            nonlocal total, squares
            n, y = len(last), x - LEVEL  # about the level, where a difference of sums has no error to speak of
            alarm = False
            if 2 * n >= window:
                variance = (squares - total * total / n) / (n - 1)
                alarm = y - total / n > sigmas * math.sqrt(max(variance, 0.0))
            last.append(y)
            total, squares = total + y, squares + y * y
            if n == window:
                old = last.popleft()
                total, squares = total - old, squares - old * old
            return alarm

        return rule

    return make


def ours(*makers: Callable[[], Detector]) -> Callable[[], Rule]:
    """Any of the detectors."""

    def make() -> Rule:
        detectors = [maker() for maker in makers]
        return lambda x: True in [detector.update(x).alarm for detector in detectors]  # each has to see every value

    return make


RULES: dict[str, Callable[[], Rule]] = {
    "Lightning SpikeDetection": lightning,
    "Megatron": megatron,
    "OLMo, 6 sigma of 128": rolling(128, 6.0),
    "3 sigma of 100": rolling(100, 3.0),
    "CUSUM, k=1, h=20 by hand": ours(lambda: Cusum(threshold=20.0)),
    "RollingZScore": ours(RollingZScore),
    "Cusum": ours(lambda: Cusum(false_alarms=BUDGET)),
    "Cusum, a tenth of the budget": ours(lambda: Cusum(false_alarms=BUDGET / 10)),
    "PageHinkley": ours(lambda: PageHinkley(false_alarms=BUDGET)),
    "EProcess": ours(lambda: EProcess(false_alarms=BUDGET)),
    "Cusum and EProcess, half each": ours(
        lambda: Cusum(false_alarms=BUDGET / 2), lambda: EProcess(false_alarms=BUDGET / 2)
    ),
}
COLUMNS = (
    *("noise", "rule", "false alarms"),
    *(f"{change}{read}" for change in CHANGES for read in ("", ": delay")),
)


def onsets(rule: Rule, values: Iterable[float]) -> Iterator[int]:
    """Steps at which an alarm begins."""
    before = False
    for step, x in enumerate(values):
        alarm = rule(x)
        if alarm and not before:
            yield step
        before = alarm


def losses(noise: Noise, seed: int, steps: int, change: Change = Change(0.0, 0.0, 0)) -> Iterator[float]:  # noqa: B008
    """Healthy steps, then so many with a change."""
    for step, x in zip(range(-HEALTHY, steps), noise.values(seed), strict=False):
        yield LEVEL + DEVIATION * x + (change.at(step) if 0 <= step < change.steps else 0.0)


def false_alarms(noise: Noise, make: Callable[[], Rule], steps: int, seeds: int) -> float:
    """How often an alarm begins in 10,000 healthy steps, from the first one on."""
    healthy = (losses(noise, seed, steps - HEALTHY) for seed in range(seeds))
    counts = [len(list(onsets(make(), values))) for values in healthy]
    return 1e4 * sum(counts) / (seeds * steps)


def found(noise: Noise, make: Callable[[], Rule], change: Change, seeds: int) -> tuple[str, str]:
    """In how many runs an alarm begins while the change lasts, and after how many of its steps, the median."""
    delays = []
    for seed in range(seeds):
        begun = (step - HEALTHY for step in onsets(make(), losses(noise, 10**6 + seed, change.steps, change)))
        first = next((step for step in begun if step >= 0), None)
        if first is not None:
            delays.append(first + 1)
    return f"{len(delays)}/{seeds}", f"{statistics.median(delays):.0f}" if delays else "-"


def row(names: tuple[str, str], steps: int, seeds: int) -> list[str | float]:
    """One row of the table, in the order of `COLUMNS`."""
    noise, make = NOISES[names[0]], RULES[names[1]]
    result: list[str | float] = [*names, f"{false_alarms(noise, make, steps, seeds):.2f}"]
    for change in CHANGES.values():
        result += found(noise, make, change, seeds)
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument(
        "--noises", nargs="*", default=[*NOISES], choices=[*NOISES], metavar="NOISE", help=", ".join(NOISES)
    )
    parser.add_argument("--rules", nargs="*", default=[*RULES], choices=[*RULES], metavar="RULE", help=", ".join(RULES))
    parser.add_argument("--seeds", type=int, default=100, help="runs of each noise, rule and change (%(default)s)")
    parser.add_argument("--steps", type=int, default=10_000, help="healthy steps of a run (%(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
    options = parser.parse_args(arguments)
    before = environment()
    names = [*product(options.noises, options.rules)]
    many = ([options.steps] * len(names), [options.seeds] * len(names))
    if options.processes > 1:
        with ProcessPoolExecutor(options.processes) as pool:
            table = list(pool.map(row, names, *many))
    else:
        table = list(map(row, names, *many))
    print(markdown(COLUMNS, table))
    print(f"\n{environment_line(before)}")
    if options.json:
        write_json(options.json, COLUMNS, table, before)


if __name__ == "__main__":
    main()
