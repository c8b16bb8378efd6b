"""Looks into a few steps for illnesses of the loss, and says of each once what it is and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence

import torch

from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.loss_rules import RULES, Evidence
from logitwatch.callbacks.reduction import rank
from logitwatch.capture.criteria import Call
from logitwatch.capture.look import Look
from logitwatch.capture.observation import Observation
from logitwatch.capture.symptoms import Symptoms, symptoms
from logitwatch.functional.sharded_rows import SplitRows
from logitwatch.sinks.readings import Alert

__all__ = ["LossDoctor"]

PLACE = "loss doctor"
# Criteria that are followed; a step with more of them is looked into no further.
MOST_CASES = 8
STAGES = ("train", "val", "test")


class LossDoctor:
    """Gathers `Symptoms` on looks 0, 1, 2, 4, 8, 16, ... of a stage, and reads them when there is a report.

    So it costs something in the first steps and next to nothing later, and no number is read on a step that is not
    reported. Its exceptions are isolated here.

    Args:
        faults: Where its exceptions are counted.
        told: Rules that have spoken in this run, before a resume too; they are not asked again.
        accumulation: Says how many batches an optimizer step has.
    """

    def __init__(self, faults: Faults, told: Collection[str] = (), accumulation: Callable[[], int] = lambda: 1) -> None:
        self._faults, self._told, self._accumulation = faults, told, accumulation
        self._looks: Counter[str] = Counter()
        self._cases: dict[tuple[str, str, int], Symptoms] = {}
        self._fresh: dict[str, int] = {}
        self._said: set[str] = set()

    def examine(self, look: Look, seen: Sequence[tuple[Call, Observation | SplitRows]]) -> None:
        """Take up what was captured in a step, where this is one of the looks to be looked into."""
        number = self._looks[look.stage]
        self._looks[look.stage] += 1
        if number & (number - 1) or look.stage not in STAGES or rank() != 0:
            return
        if self._faults.armed(PLACE):
            self._faults.attempt(PLACE, self._gather, look, seen, otherwise=None)

    def alerts(self, stage: str) -> list[Alert]:
        """What is to be said of a stage now, each rule once in a run. Reads numbers to the host."""
        if stage not in self._fresh or not self._faults.armed(PLACE):
            return []
        return self._faults.attempt(PLACE, self._diagnosed, stage, self._fresh.pop(stage), otherwise=[])

    @torch.no_grad()
    def _gather(self, look: Look, seen: Sequence[tuple[Call, Observation | SplitRows]]) -> None:
        calls: Counter[str] = Counter()
        for call, observation in seen:
            case = (look.stage, call.source, calls[call.source])
            calls[call.source] += 1
            known = self._cases.get(case)
            if isinstance(observation, SplitRows) or (known is None and len(self._cases) >= MOST_CASES):
                continue
            found = symptoms(call, observation, shadow=known is None)
            if found is not None:
                self._cases[case] = found if known is None else known.merge(found)
                self._fresh[look.stage] = look.step

    def _diagnosed(self, stage: str, step: int) -> list[Alert]:
        alerts: list[Alert] = []
        cases = [_evidence(seen, stage, self._accumulation()) for key, seen in self._cases.items() if key[0] == stage]
        for rule in RULES:
            if rule.name in self._said or rule.name in self._told:
                continue
            spoken = (alert for evidence in cases if (alert := rule.alert(evidence, step)) is not None)
            first = next(spoken, None)
            if first is not None:
                self._said.add(rule.name)
                alerts.append(first)
        return alerts


def _evidence(seen: Symptoms, stage: str, accumulation: int) -> Evidence:
    """Symptoms as numbers, read in one go."""
    names = [*seen.sums, *seen.highs]
    numbers = torch.stack([*seen.sums.values(), *seen.highs.values()]).tolist()
    count = len(seen.sums)
    sums = dict(zip(names[:count], numbers[:count], strict=True))
    highs = dict(zip(names[count:], numbers[count:], strict=True))
    return Evidence(seen.facts, sums, highs, accumulation, stage == "train")
