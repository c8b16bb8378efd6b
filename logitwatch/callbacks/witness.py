"""Says what was captured and proves it, or says that nothing was and what to do about it. Once for each stage."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from logitwatch.capture.criteria import Call
from logitwatch.capture.look import Level, Look
from logitwatch.capture.observation import Observation
from logitwatch.capture.proof import prove
from logitwatch.capture.tap import SILENT_LOOKS, Tap
from logitwatch.sinks.readings import Text

__all__ = ["Witness"]

logger = logging.getLogger("logitwatch")


class Witness:
    """Keeps what has been said already of the sources of one tap."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._said: set[tuple[str, str]] = set()
        self._empty: dict[str, int] = {}
        self._missed: Counter[tuple[str, str]] = Counter()

    def testify(
        self, look: Look, seen: Sequence[tuple[Call, Observation]], followed: Collection[str | None]
    ) -> list[Text]:
        """Texts to be reported of this look: a proof at the first capture, nothing afterwards. Warnings are logged.

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
            return []
        self._empty[stage] = 0
        others = sorted({call.source for call, _ in seen} - set(followed))
        note = "".join(f" Also seen and not followed: `{name}` (`source={name!r}`)." for name in others)
        return [
            self._proof(look, call, observation, note)
            for call, observation in seen
            if call.source in followed and self._first(stage, call.source)
        ]

    def _miss(self, stage: str, sources: Sequence[str]) -> None:
        """Say once of a source that was asked for by name that it does not speak."""
        for name in self._tap.requested:
            if name in sources:
                self._missed[stage, name] = -1
            elif self._missed[stage, name] >= 0:
                self._missed[stage, name] += 1
                if self._missed[stage, name] == SILENT_LOOKS and stage != "predict":
                    self._warn(stage, f"source {name}", _no_such(stage, name, sources, self._tap.criteria))

    def _proof(self, look: Look, call: Call, observation: Observation, note: str) -> Text:
        shape = f"{tuple(call.logits.shape)} {str(call.logits.dtype).removeprefix('torch.')}"
        text = f"Watching `{call.source}` in {look.stage}: logits {shape}, {observation.num_rows} rows"
        proof = prove(call, observation)
        if proof is None:
            return Text(tag=f"logitwatch/capture/{look.stage}", step=look.step, markdown=f"{text}.{note}")
        text += f"; loss recomputed from them {proof.recomputed:.6g}, returned {proof.returned:.6g}"
        text += f" (relative difference {proof.residual:.1e})"
        loss = _loss(look.result)
        if loss is not None and loss != 0:
            text += f"; {proof.returned / loss:.1%} of the loss of the step"
        if not proof.holds:
            self._warn(look.stage, "proof", f"{text}. They disagree: the numbers of this source are not to be trusted.")
        return Text(tag=f"logitwatch/capture/{look.stage}", step=look.step, markdown=f"{text}.{note}")

    def _warn(self, stage: str, kind: str, text: str) -> None:
        if self._first(stage, f" {kind}"):
            logger.warning("logitwatch: %s", text)

    def _first(self, stage: str, what: str) -> bool:
        new = (stage, what) not in self._said
        self._said.add((stage, what))
        return new


def _loss(result: Any) -> float | None:
    """The loss a step returned; read back to the host, so only for a proof."""
    loss = result.get("loss") if isinstance(result, Mapping) else result
    if isinstance(loss, Tensor) and loss.numel() == 1:
        with torch.no_grad():
            return float(loss)
    return None


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
