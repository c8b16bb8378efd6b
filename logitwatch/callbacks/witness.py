"""Says what was captured and proves it, or says that nothing was and what to do about it. Once for each stage."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from logitwatch.callbacks.loss_doctor import LossDoctor
from logitwatch.capture.criteria import Call
from logitwatch.capture.look import Level, Look
from logitwatch.capture.observation import Observation
from logitwatch.capture.proof import Proof, prove
from logitwatch.capture.tap import SILENT_LOOKS, Tap
from logitwatch.functional.sharded_rows import SplitRows
from logitwatch.sinks.readings import Reading, Text

__all__ = ["Witness"]

logger = logging.getLogger("logitwatch")


class _Statement(NamedTuple):
    """What a first capture leaves until it is told: words, and numbers still on the device."""

    step: int
    words: str
    proof: Proof | None
    loss: Tensor | None
    note: str


class Witness:
    """Keeps what has been said already of the sources of one tap, and what is to be said at the next report.

    Args:
        tap: Where the sources are.
        doctor: Looks into the losses that were captured; None for nobody.
    """

    def __init__(self, tap: Tap, doctor: LossDoctor | None = None) -> None:
        self._tap, self._doctor = tap, doctor
        self._said: set[tuple[str, str]] = set()
        self._empty: dict[str, int] = {}
        self._missed: Counter[tuple[str, str]] = Counter()
        self._untold: dict[str, list[_Statement]] = {}

    def testify(
        self, look: Look, seen: Sequence[tuple[Call, Observation | SplitRows]], followed: Collection[str | None]
    ) -> None:
        """Note what is to be told of this look: a proof at the first capture, nothing afterwards.

        No number is read back to the host and no logits are kept. What can be said without a number, that nothing was
        seen, is logged at once.

        Args:
            look: The step.
            seen: What was captured in it.
            followed: The sources some monitor follows.
        """
        stage = look.stage
        silent = self._tap.silent_source(look)
        if silent is not None:
            self._warn(stage, "silent", _silence(stage, silent))
        self._miss(stage, [call.source for call, _ in seen])
        if not seen:
            self._empty[stage] = self._empty.get(stage, 0) + 1
            if self._empty[stage] == SILENT_LOOKS and silent is None and stage != "predict":
                self._warn(stage, "nothing", _nothing(look, self._tap.criteria))
            return
        self._empty[stage] = 0
        others = sorted({call.source for call, _ in seen} - set(followed))
        note = "".join(f" Also seen and not followed: `{name}` (`source={name!r}`)." for name in others)
        for call, observation in seen:
            if call.source in followed and self._first(stage, call.source):
                statement = _statement(look, call, observation, note)
                self._untold.setdefault(stage, []).append(statement)
        if self._doctor is not None:
            self._doctor.examine(look, seen)

    def readings(self, stage: str) -> list[Reading]:
        """What is to be told of a stage at this report: `texts`, and what the doctor says."""
        return [*self.texts(stage), *([] if self._doctor is None else self._doctor.alerts(stage))]

    def texts(self, stage: str) -> list[Text]:
        """What is still to be told of a stage, each thing once. Reads numbers to the host, warns of bad ones."""
        return [self._told(stage, statement) for statement in self._untold.pop(stage, ())]

    def _miss(self, stage: str, sources: Sequence[str]) -> None:
        """Say once of a source that was asked for by name that it does not speak."""
        for name in self._tap.requested:
            if name in sources:
                self._missed[stage, name] = -1
            elif self._missed[stage, name] >= 0:
                self._missed[stage, name] += 1
                if self._missed[stage, name] == SILENT_LOOKS and stage != "predict":
                    self._warn(stage, f"source {name}", _no_such(stage, name, sources, self._tap.criteria))

    def _told(self, stage: str, statement: _Statement) -> Text:
        step, text, proof, loss, note = statement
        if proof is not None:
            returned = proof.returned.item()
            text += f"; loss recomputed from them {proof.recomputed.item():.6g}, returned {returned:.6g}"
            text += f" (relative difference {proof.residual:.1e})"
            whole = 0.0 if loss is None else loss.item()
            text += f"; {returned / whole:.1%} of the loss of the step" if whole else ""
            if not proof.holds:
                self._warn(stage, "proof", f"{text}. They disagree: the numbers of this source are not to be trusted.")
        return Text(tag=f"logitwatch/capture/{stage}", step=step, markdown=f"{text}.{note}")

    def _warn(self, stage: str, kind: str, text: str) -> None:
        if self._first(stage, f" {kind}"):
            logger.warning("logitwatch: %s", text)

    def _first(self, stage: str, what: str) -> bool:
        new = (stage, what) not in self._said
        self._said.add((stage, what))
        return new


def _statement(look: Look, call: Call, observation: Observation | SplitRows, note: str) -> _Statement:
    shape = f"{tuple(call.logits.shape)} {str(call.logits.dtype).removeprefix('torch.')}"
    words = f"Watching `{call.source}` in {look.stage}: logits {shape}, {observation.num_rows} rows"
    if isinstance(observation, SplitRows):  # the loss would need other ranks
        split = f"{words}, their classes split over ranks: a random sample of the rows is put together at each report"
        return _Statement(look.step, split, None, None, note)
    return _Statement(look.step, words, prove(call, observation), _loss(look.result), note)


def _loss(result: Any) -> Tensor | None:
    """A copy of the loss a step returned, as backward or the next step may reuse its memory."""
    loss = result.get("loss") if isinstance(result, Mapping) else result
    return loss.detach().clone() if isinstance(loss, Tensor) and loss.numel() == 1 else None


def _silence(stage: str, level: Level) -> str:
    return (
        f"nothing was captured in the last {SILENT_LOOKS} {stage} steps looked at, though the {level.name.lower()} "
        "spoke before. If it was compiled in the meantime, its hook is gone: start the Trainer before compiling, or "
        "call logitwatch.observe(logits, targets) in the step."
    )


def _no_such(stage: str, name: str, sources: Sequence[str], criteria: Sequence[str]) -> str:
    return (
        f"the source {name!r} was asked for and not seen in {SILENT_LOOKS} {stage} steps. Seen were: "
        f"{', '.join(dict.fromkeys(sources)) or 'none'}; criterion modules are: {', '.join(criteria) or 'none'}. A "
        "source is the name of one of these, of cross_entropy, nll_loss or binary_cross_entropy_with_logits, or of a "
        "submodule whose output is the logits."
    )


def _nothing(look: Look, criteria: Sequence[str]) -> str:
    result = look.result
    returned = f"a dict with {sorted(map(str, result))}" if isinstance(result, Mapping) else type(result).__name__
    step = {"train": "training_step", "val": "validation_step"}.get(look.stage, f"{look.stage}_step")
    found = ", ".join(criteria) if criteria else "none among the submodules"
    return (
        f"no logits found in {step} so far. Looked at: criterion modules ({found}), calls of F.cross_entropy, "
        f"F.nll_loss and F.binary_cross_entropy_with_logits, and what the step returned ({returned}). "
        f"The remedy is one line in {step}: logitwatch.observe(logits, targets)"
    )
