"""What watching costs a training step, the whole process counted: ``python benchmarks/step_time.py --help``.

Every arm trains the same network on the same batches in a Trainer with a TensorBoardLogger; they differ in callbacks.
"""

import argparse
import gc
import json
import logging
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from arms import ARMS, BASELINE
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from races import Cost, compared, environment, environment_line, markdown, turns, warn_of_load
from tasks import TASKS, Batch, Task
from torch import Tensor, nn
from torch.utils.data import DataLoader

from logitwatch.sinks import read_jsonl

SPANS = ("whole", "steady")
COLUMNS = (
    *("task", "span", "arm", "cpu ×", "cpu q1", "cpu q3", "cpu min ×", "cpu ms"),
    *("wall ×", "wall q1", "wall q3", "wall min ×", "wall ms"),
)
LOG_EVERY = 50
# Looks and reports are dense until step 32, when the suite chooses its cadence.
SKIP = 40
# Not counted: what a process pays once, imports above all. The suite's first report comes after step 8.
REHEARSAL = 10


class Timed(LightningModule):
    """A classifier that notes the time at three places. Lightning calls these hooks whether or not they are there."""

    def __init__(self, network: nn.Module, *, skip: int, steps: int) -> None:
        super().__init__()
        self.network = network
        self.criterion = nn.CrossEntropyLoss()
        self.skip, self.last = skip, steps - 1
        self.marks: dict[str, Cost] = {}

    def on_fit_start(self) -> None:
        self.marks["start"] = Cost.now()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == self.skip:
            self.marks["skipped"] = Cost.now()
        if batch_idx == self.last:
            self.marks["last"] = Cost.now()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs, targets = batch
        return self.criterion(self.network(inputs).flatten(0, -2), targets.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)

    def spans(self, end: Cost) -> dict[str, Cost]:
        """Cost of a step: over the whole run, and over steps ``skip`` to the last but one."""
        whole, steady = end.since(self.marks["start"]), self.marks["last"].since(self.marks["skipped"])
        return {"whole": whole.per(self.last + 1), "steady": steady.per(self.last - self.skip)}


class Run(NamedTuple):
    """Cost of a step by span, and what the suite wrote about itself where it was on."""

    spans: dict[str, Cost]
    cadence: str
    overhead: float


def run(task: Task, batches: list[Batch], arm: str, *, steps: int, skip: int) -> Run:
    """One training with one arm, from before the first step until all writers are closed."""
    torch.manual_seed(0)
    module = Timed(task.network(), skip=skip, steps=steps)
    # Batches are ready-made: collating would only dilute the ratios.
    loader = DataLoader(batches, batch_size=None, sampler=[i % len(batches) for i in range(steps)])
    with tempfile.TemporaryDirectory() as folder:
        logger = TensorBoardLogger(folder, name=None, version="")
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=steps,
            logger=logger,
            callbacks=ARMS[arm](task.num_classes),
            log_every_n_steps=LOG_EVERY,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        logger.experiment.flush()  # opens the file in every arm, also in those that write nothing
        gc.collect()
        trainer.fit(module, loader)  # closes the writer, which first empties its queue
        spans = module.spans(Cost.now())
        return Run(spans, *_suite_record(Path(folder)))


def _suite_record(folder: Path) -> tuple[str, float]:
    """The cadence the suite chose and the overhead it last reported. A suite that fails is fast, so here it raises."""
    path = folder / "logitwatch.jsonl"
    if not path.exists():
        return "", 0.0
    values = {record["tag"]: record for record in read_jsonl(path) if "tag" in record}
    if "logits/train/entropy" not in values or values["logitwatch/faults"]["value"]:
        raise RuntimeError("the suite saw nothing or had faults, so its time means nothing; see the log above")
    cadence = values.get("logitwatch/cadence", {"markdown": "Still warming up."})["markdown"]
    return cadence, values["logitwatch/overhead"]["value"]


def measure(name: str, options: argparse.Namespace) -> dict[str, list[Run]]:
    """Runs of each arm in order of the rounds."""
    task = TASKS[name]
    batches = task.batches()
    steps, rounds = options.steps or task.steps, options.rounds or task.rounds
    runs: dict[str, list[Run]] = {arm: [] for arm in options.arms}
    for arm in options.arms:
        run(task, batches, arm, steps=REHEARSAL, skip=0)
    for _, arm in turns(options.arms, rounds):
        runs[arm].append(run(task, batches, arm, steps=steps, skip=options.skip))
    return runs


def rows(name: str, runs: dict[str, list[Run]]) -> list[list[Any]]:
    """Rows of the table, in the order of `COLUMNS`."""
    result = []
    for span in SPANS:
        for arm, own in runs.items():
            row: list[Any] = [name, span, arm]
            for clock in Cost._fields:
                seconds, baseline = (
                    [getattr(one.spans[span], clock) for one in some] for some in (own, runs[BASELINE])
                )
                row += compared(seconds, baseline)
            result.append(row)
    return result


def notes(name: str, runs: dict[str, list[Run]]) -> list[str]:
    """What the suite chose, how often, and what it thinks it cost."""
    suite = runs.get("suite", [])
    cadences = [one.cadence for one in suite]
    lines = [f"- {name}: {cadences.count(text)} of {len(suite)} rounds: {text}" for text in sorted(set(cadences))]
    if suite:
        overhead = statistics.median(one.overhead for one in suite)
        lines.append(f"- {name}: the suite's own account, last report: {overhead:.2%} of the step time")
    return lines


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS], help=f"{BASELINE} is always among them")
    parser.add_argument("--rounds", type=int, help="trainings of each arm; the task's own number if left out")
    parser.add_argument("--steps", type=int, help="steps of a training; the task's own number if left out")
    parser.add_argument("--skip", type=int, default=SKIP, help="steps left out of the span 'steady' (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round here")
    options = parser.parse_args(arguments)
    options.arms = list(dict.fromkeys([BASELINE, *options.arms]))
    shortest = min(options.steps or TASKS[name].steps for name in options.tasks)
    if not 0 <= options.skip <= shortest - 2:
        parser.error(f"--skip must leave two steps of {shortest}, got {options.skip}")
    return options


def as_json(runs: dict[str, dict[str, list[Run]]], table: list[list[Any]], env: dict[str, Any]) -> str:
    """Environment, table and every round apart, in seconds."""
    seconds = {
        name: {
            arm: [{span: cost._asdict() for span, cost in one.spans.items()} for one in own] for arm, own in of.items()
        }
        for name, of in runs.items()
    }
    rows_by_name = [dict(zip(COLUMNS, row, strict=True)) for row in table]
    return json.dumps({"environment": env, "table": rows_by_name, "seconds": seconds}, indent=1)


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.set_num_threads(options.threads)
    before = environment()
    warn_of_load("start")
    runs = {name: measure(name, options) for name in options.tasks}
    table = [row for name in options.tasks for row in rows(name, runs[name])]
    print(markdown(COLUMNS, table), end="\n\n")
    print(*(line for name in options.tasks for line in notes(name, runs[name])), environment_line(before), sep="\n")
    warn_of_load("end")
    if options.json:
        options.json.write_text(as_json(runs, table, before), encoding="utf-8")


if __name__ == "__main__":
    main()
