"""What the scale of the logits was at each report, and what made it grow: the rule of `GradientMonitor`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from logitwatch.sinks.readings import Alert

__all__ = ["Scale", "ScaleHistory"]

STAGES = ("train", "val")
# What each factor is, and what holds it.
REMEDIES = {
    "head_norm": ("the norm of the head", "Put weight decay on the head, or a z-loss or a logit penalty in the loss."),
    "feature_norm": (
        "the norm of the features",
        "Normalise what the head is given (batch or layer norm), or the logits (`LogitNormLoss`), or put weight decay "
        "on the layers before the head.",
    ),
    "alignment": (
        "the alignment of features and head",
        "The features close in on the directions of the classes: smooth the labels, or put a z-loss or a confidence "
        "penalty in the loss. Weight decay would not hold it.",
    ),
}


class Scale(NamedTuple):
    """The scale of the logits in one report, as a product of three, and how many rows were right."""

    stage: str
    step: int
    accuracy: float  # a fraction
    head_norm: float
    feature_norm: float
    alignment: float

    @property
    def logits(self) -> float:
        """The product."""
        return self.head_norm * self.feature_norm * self.alignment


@dataclass
class ScaleHistory:
    """One rule, in training and in validation: the logits have doubled, and accuracy has not risen meanwhile.

    They are compared with the report at which accuracy was last higher than ever before, which at first is the first
    one, and after an alert with what it was about.

    Args:
        growth: The factor that is worth an alert.

    Examples:
        >>> history = ScaleHistory()
        >>> for step, (accuracy, features) in enumerate([(0.8, 1.0), (0.9, 2.0), (0.9, 3.0), (0.9, 4.5), (0.9, 5.0)]):
        ...     for alert in history.reported(Scale("train", step, accuracy, 1.0, features, 1.0)):
        ...         print(alert.step, alert.title)
        3 The logits have grown by a factor of 2.2 and accuracy has not: the norm of the features
    """

    growth: float = 2.0
    _best: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, -1.0))
    _since: dict[str, Scale] = field(default_factory=lambda: {stage: Scale(stage, 0, *[0.0] * 4) for stage in STAGES})

    def reported(self, seen: Scale) -> list[Alert]:
        """Take up one more report of one of the two stages; what there is to say about it."""
        if math.isnan(seen.accuracy) or not seen.logits > 0:
            return []
        if seen.accuracy > self._best[seen.stage]:
            self._best[seen.stage], self._since[seen.stage] = seen.accuracy, seen
        since = self._since[seen.stage]
        if seen.logits < self.growth * since.logits:
            return []
        self._since[seen.stage] = seen
        return [_alert(seen, since)]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return {"best": dict(self._best), "since": {stage: list(scale) for stage, scale in self._since.items()}}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on as saved."""
        self._best = dict(saved["best"])
        self._since = {stage: Scale(*scale) for stage, scale in saved["since"].items()}


def _alert(seen: Scale, since: Scale) -> Alert:
    whole = math.log(seen.logits / since.logits)
    logs = {name: math.log(getattr(seen, name) / getattr(since, name)) for name in REMEDIES}
    most = max(logs, key=lambda name: logs[name])
    what, remedy = REMEDIES[most]
    shares = ", ".join(f"{REMEDIES[name][0]} {round(log / whole, 2) + 0.0:.0%}" for name, log in logs.items())
    return Alert(
        rule="logit_growth",
        step=seen.step,
        level="warning",
        title=f"The logits have grown by a factor of {seen.logits / since.logits:.1f} and accuracy has not: {what}",
        text=(
            f"Since step {since.step} the root mean square of the logits in {seen.stage} rose from {since.logits:.3g} "
            f"to {seen.logits:.3g}, while accuracy went from {since.accuracy:.1%} to {seen.accuracy:.1%}: the model "
            f"grows more certain, not more right. Shares of the growth, in logarithms: {shares}. {remedy}"
        ),
        values={"logit_scale": seen.logits, "before": since.logits, **{name: getattr(seen, name) for name in REMEDIES}},
    )
