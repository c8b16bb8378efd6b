"""The rules of `StabilityGuard` on the course of training: each look is one value of a series watched for change."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from logitwatch.callbacks.stability_window import Window
from logitwatch.drift.detectors import Cusum
from logitwatch.drift.evidence import Side
from logitwatch.sinks.readings import Alert
from logitwatch.states.look_series import LookValues

__all__ = ["SERIES", "Change", "Series", "StabilitySeries"]

# What is beyond chance may still be what training does: the log-partition and the scale of the logits move in any run.
# They are told of where they do harm as well.
FAR, MOVED = 25.0, 5.0  # nats: from 0, where z-loss would have it, and from the baseline
LARGE, GROWN = 100.0, 4.0  # a magnitude, and times the baseline
# A learning rate that jumps by this factor between two reports begins a new phase.
PHASE = 1.5


class Change(NamedTuple):
    """A series that has left its baseline: the value that says so most clearly, and what was normal."""

    value: float
    baseline: float


class Series(NamedTuple):
    """What is watched for change, to which side, and what is told of it; None where it does no harm."""

    of: Callable[[LookValues], float]
    side: Side
    told: Callable[[Window, Change], Alert | None]


def _spike(window: Window, change: Change) -> Alert | None:
    entropy = window.mean.entropy
    sure = " Predictions are surer than they are right: look at the labels of these steps first."
    return Alert(
        rule="loss_spike",
        step=window.step,
        level="warning",
        title=f"The loss jumped from {change.baseline:.3g} to {change.value:.3g} nats",
        text=(
            "It is the NLL of the rows looked at, against a baseline of the looks before. A bad batch passes; where it "
            "stays, lower the learning rate, clip gradients, and look at the data from here on."
            + (sure if change.value > entropy + 1 else "")
        ),
        values={"value": change.value, "baseline": change.baseline, "entropy": entropy},
    )


def _drift(window: Window, change: Change) -> Alert | None:
    if abs(change.value) < FAR or abs(change.value - change.baseline) < MOVED:
        return None
    return Alert(
        rule="log_partition_drift",
        step=window.step,
        level="warning",
        title=f"The log-partition drifts: from {change.baseline:.3g} to {change.value:.3g} nats",
        text=(
            "All logits move together, which changes no prediction and costs precision. Add `ZLoss(1e-4)` to the loss, "
            "or put weight decay on the head."
        ),
        values={"value": change.value, "baseline": change.baseline},
    )


def _growth(window: Window, change: Change) -> Alert | None:
    value, baseline = math.exp(change.value), math.exp(change.baseline)
    if value < max(LARGE, GROWN * baseline):
        return None
    return Alert(
        rule="logit_range",
        step=window.step,
        level="warning",
        title=f"The largest logit grew from {baseline:.3g} to {value:.3g}",
        text=(
            "Softmax needs no more than 20 or so. `GradientMonitor` says whether the head, the features or their "
            "alignment grows; `ZLoss`, `LogitPenalty` or a soft cap hold it, and a lower learning rate slows it."
        ),
        values={"value": value, "baseline": baseline},
    )


SERIES = {
    "loss_spike": Series(lambda look: look.nll, "up", _spike),
    "log_partition_drift": Series(lambda look: look.log_partition, "both", _drift),
    # Of the logarithm, in which growth is even.
    "logit_range": Series(lambda look: math.log(max(look.absmax, 1e-30)), "up", _growth),
}


class StabilitySeries:
    """Three series of a training run, each against a baseline that is learnt in a warm-up: loss, log-partition, range.

    Args:
        false_alarms: Alarms a step that chance may raise, of all three together.

    Examples:
        >>> looks = [LookValues(5.0, 2.0, 1.0, 1.0 + 0.01 * (i * 7 % 5), 0.0) for i in range(256)]
        >>> report = Window("train", 0, 256, 64, 64, 0, None, 0, 5.0, 3.4e38, 1.2e-7, 10, looks[0], looks, [], [])
        >>> series = StabilitySeries(1e-4)
        >>> [rule for rule, alert in series.reported(report, steps=256).items() if alert]
        []
        >>> jumped = report._replace(looks=[look._replace(nll=3.0) for look in looks[:10]])
        >>> series.reported(jumped, steps=10)["loss_spike"].title
        'The loss jumped from 1.02 to 3 nats'
    """

    def __init__(self, false_alarms: float) -> None:
        self._false_alarms = false_alarms
        self._rate = 0.0  # alarms a look and series; 0 before the first look
        self._detectors: dict[str, Cusum] = {}
        self._learning_rate = math.nan

    def reported(self, window: Window, *, steps: int, learning_rate: float = math.nan) -> dict[str, Alert | None]:
        """Take up the looks of a training report; by rule its alert, where there is trouble.

        Args:
            window: The report.
            steps: Optimizer steps since the one before.
            learning_rate: Of the first parameter group; NaN where nobody knows.
        """
        if not window.looks:
            return {}
        if not self._detectors:
            self._rate = min(0.5, self._false_alarms * max(1, steps) / len(window.looks) / len(SERIES))
            self._detectors = _detectors(self._rate)
        before, self._learning_rate = self._learning_rate, learning_rate
        if learning_rate > PHASE * before or before > PHASE * learning_rate:
            for detector in self._detectors.values():
                detector.reset()
        return {name: self._told(name, series, window) for name, series in SERIES.items()}

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        detectors = {name: detector.state_dict() for name, detector in self._detectors.items()}
        return {"rate": self._rate, "learning_rate": self._learning_rate, "detectors": detectors}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on as saved."""
        detectors = _detectors(saved["rate"]) if saved["detectors"] else {}
        for name, detector in detectors.items():
            detector.load_state_dict(saved["detectors"][name])
        self._detectors, self._rate, self._learning_rate = detectors, saved["rate"], saved["learning_rate"]

    def _told(self, name: str, series: Series, window: Window) -> Alert | None:
        most: tuple[float, Change] | None = None
        for value in (series.of(look) for look in window.looks):
            if math.isnan(value):  # no row of the look had it
                continue
            alarm, score, baseline = self._detectors[name].update(value)
            if alarm and baseline is not None and math.isfinite(value) and (most is None or score >= most[0]):
                most = score, Change(value, baseline)
        return None if most is None else series.told(window, most[1])


def _detectors(rate: float) -> dict[str, Cusum]:
    return {name: Cusum(false_alarms=rate, side=series.side) for name, series in SERIES.items()}
