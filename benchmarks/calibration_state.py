"""The calibration sketch beside torchmetrics' lists and relplot: ``python benchmarks/calibration_state.py --help``.

Three tables: an update with a batch of logits, SmoothECE of many rows, and the size of the state.
"""

import argparse
import gc
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from races import Cost, compared, environment, environment_line, markdown, turns, warn_of_load, write_json
from torch import Tensor

SHAPES = ("256x10", "4096x1000", "2048x32000")
SAMPLES = (100_000, 1_000_000)
BASELINE = {"update": "torchmetrics", "smooth_ece": "relplot"}
COLUMNS = (
    *("task", "size", "arm", "cpu ×", "cpu q1", "cpu q3", "cpu min ×", "cpu ms"),
    *("wall ×", "wall q1", "wall q3", "wall min ×", "wall ms"),
)
# A turn repeats the call until it takes about this long, so that the clocks resolve small shapes.
TURN_SECONDS = 0.05

Arms = dict[str, Callable[[], object]]


def updates(shape: str) -> Arms:
    """One batch taken in. The lists are emptied each time: they would grow, and are read in the other table."""
    from torchmetrics.classification import MulticlassCalibrationError

    from logitwatch.functional.row_statistics import calibration_rows
    from logitwatch.states.calibration_sketch import CalibrationSketch

    num_rows, num_classes = map(int, shape.split("x"))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_rows, num_classes, generator=generator).mul_(3)
    targets = torch.randint(num_classes, (num_rows,), generator=generator)
    metric, seen = MulticlassCalibrationError(num_classes), CalibrationSketch.empty()
    rows = calibration_rows(logits, targets)

    def of_torchmetrics() -> None:
        metric.update(logits, targets)
        metric.confidences.clear()
        metric.accuracies.clear()

    def ours() -> CalibrationSketch:
        return seen.merge(CalibrationSketch.of(logits, targets))

    def lent() -> CalibrationSketch:
        """As in a monitor, which has the statistics of each row already."""
        return seen.merge(CalibrationSketch.of_rows(*rows))

    return {"torchmetrics": of_torchmetrics, "control": of_torchmetrics, "ours": ours, "ours, rows known": lent}


def known_rows(samples: int) -> tuple[Tensor, Tensor]:
    """Confidences crowded near 1, right a twentieth less often than they say."""
    generator = torch.Generator().manual_seed(0)
    confidence = (3 + 2.5 * torch.randn(samples, generator=generator, dtype=torch.float64)).abs().sigmoid()
    return confidence, torch.rand(samples, generator=generator) < confidence - 0.05


def smoothings(size: str) -> Arms:
    """SmoothECE of all rows: relplot from the rows, ours from a state that saw them."""
    import relplot

    from logitwatch.states.calibration_sketch import CalibrationSketch

    confidence, correct = known_rows(int(size))
    zero = torch.zeros_like(confidence)
    seen = CalibrationSketch.of_rows(confidence, correct, zero, zero)
    f, y = confidence.numpy(), correct.double().numpy()
    assert abs(seen.smooth_ece().item() - relplot.smECE(f, y)) < 1e-9
    return {"relplot": lambda: relplot.smECE(f, y), "control": lambda: relplot.smECE(f, y), "ours": seen.smooth_ece}


def turn(call: Callable[[], object], repeats: int) -> Cost:
    """Cost of one call."""
    gc.collect()
    start = Cost.now()
    for _ in range(repeats):
        call()
    return Cost.now().since(start).per(repeats)


def rows_of(task: str, size: str, arms: Arms, rounds: int) -> list[list[str | float]]:
    """Rows of the table, in the order of `COLUMNS`."""
    for call in arms.values():  # warms up
        call()
    repeats = math.ceil(TURN_SECONDS / turn(arms[BASELINE[task]], 1).wall)
    costs: dict[str, list[Cost]] = {arm: [] for arm in arms}
    for _, arm in turns([*arms], rounds):
        costs[arm].append(turn(arms[arm], repeats))
    result = []
    for arm, own in costs.items():
        row: list[str | float] = [task, size, arm]
        for clock in Cost._fields:
            seconds, baseline = ([getattr(cost, clock) for cost in some] for some in (own, costs[BASELINE[task]]))
            row += compared(seconds, baseline)
        result.append(row)
    return result


def sizes(samples: list[int]) -> list[list[str | int]]:
    """Bytes of each state after so many rows; the lists hold a float32 of each row twice."""
    from torchmetrics.classification import MulticlassCalibrationError

    from logitwatch.states.calibration_sketch import CalibrationSketch
    from logitwatch.states.protocol import pack

    result: list[list[str | int]] = []
    for number in samples:
        metric, seen = MulticlassCalibrationError(2), CalibrationSketch.empty()
        for logits in torch.randn(number, 2, generator=torch.Generator().manual_seed(0)).split(100_000):
            targets = torch.zeros(len(logits), dtype=torch.int64)
            metric.update(logits, targets)
            seen = seen.merge(CalibrationSketch.of(logits, targets))
        lists = sum(t.nbytes for t in (*metric.confidences, *metric.accuracies))
        packed = pack(seen)
        result.append(["bytes", f"{number}", lists, packed.sums.nbytes + packed.maxima.nbytes])
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--shapes", nargs="*", default=SHAPES, metavar="ROWSxCLASSES", help=" ".join(SHAPES))
    parser.add_argument("--samples", nargs="*", type=int, default=SAMPLES, help="rows of SmoothECE and of the sizes")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each arm (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")  # of relplot, at import
    torch.set_num_threads(options.threads)
    before = environment()
    warn_of_load("start")
    table = [row for shape in options.shapes for row in rows_of("update", shape, updates(shape), options.rounds)]
    for number in options.samples:
        table += rows_of("smooth_ece", str(number), smoothings(str(number)), options.rounds)
    print(
        markdown(COLUMNS, table), markdown(("task", "rows", "torchmetrics", "ours"), sizes(options.samples)), sep="\n\n"
    )
    print(f"\n{environment_line(before)}")
    warn_of_load("end")
    if options.json:
        write_json(options.json, COLUMNS, table, before)


if __name__ == "__main__":
    main()
