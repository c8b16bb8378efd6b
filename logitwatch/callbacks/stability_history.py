"""From report to report: what `StabilityGuard` remembers, and what it tells once in an episode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from logitwatch.callbacks.stability_rules import RULES
from logitwatch.callbacks.stability_series import StabilitySeries
from logitwatch.callbacks.stability_window import Window
from logitwatch.drift.episode import Episode
from logitwatch.drift.growth import forecast
from logitwatch.drift.verdict import Verdict
from logitwatch.sinks.readings import Alert

__all__ = ["StabilityHistory"]

# NLL less entropy, in nats: above it a model is surer than it is right, by so much, and by so much more than at best.
OVERCONFIDENT, RISEN = 0.1, 0.1
IN_A_ROW = 2
# A forecast is made once the largest logit is this part of the range of float16, of so many reports, and told of where
# the end is no further than so many steps.
FORECAST_FROM, FORECAST_REPORTS, HORIZON = 1 / 64, 40, 5000
# Reports in a row without trouble that end an episode of it.
COOLDOWN = 3


class StabilityHistory:
    """All rules over the reports of a run, each told once in an episode of trouble.

    An episode begins when a rule has held at as many reports in a row as it asks for, and is over after three reports
    at which it did not hold.

    Args:
        false_alarms: Alarms a training step that chance may raise, of the rules on series together. The others have no
            rate: each rules chance out, or is a fact.
        names: Of the classes, for the texts.

    Examples:
        >>> from logitwatch.states.look_series import LookValues
        >>> history = StabilityHistory()
        >>> mean = LookValues(5.0, 2.0, 1.0, 1.0, 0.0)
        >>> bad = Window("train", 0, 50, 64, 60, 4, 41, 0, 5.0, 3.4e38, 1.2e-7, 10, mean, [], [], [])
        >>> [alert.rule for report in (bad, bad) for alert in history.reported(report, steps=50)]
        ['nonfinite']
    """

    def __init__(self, false_alarms: float = 1e-4, names: Sequence[str] | None = None) -> None:
        self._names = names
        self._series = StabilitySeries(false_alarms)
        self._episodes: dict[str, Episode] = {}  # by rule and place
        self._held: dict[str, int] = {}  # reports in a row, from below 0 where it has held from the first
        self._surest: dict[str, float] = {}  # least NLL less entropy, by place
        # Step and logarithm of the largest magnitude; NaN where there was no such report.
        self._scale: list[tuple[int, float]] = [(0, math.nan)] * FORECAST_REPORTS

    def reported(self, window: Window, *, steps: int = 0, learning_rate: float = math.nan) -> list[Alert]:
        """Take up one more report; what there is to say about it.

        Args:
            window: The report.
            steps, learning_rate: See `StabilitySeries.reported`.
        """
        found = {name: (rule.of(window, self._names), rule.in_a_row) for name, rule in RULES.items()}
        if window.stage == "train":
            course = self._series.reported(window, steps=steps, learning_rate=learning_rate)
            found |= {name: (alert, 1) for name, alert in course.items()}
            found["overflow_ahead"] = self._overflow(window), 1
        else:
            found["overconfidence"] = self._overconfidence(window), IN_A_ROW
        told = []
        for name, (alert, often) in found.items():
            place = f"{name} {window.where}"
            before = often - RULES[name].at_first if name in RULES else 0
            self._held[place] = self._held.get(place, before) + 1 if alert is not None else 0
            trouble = self._held[place] >= often
            episode = self._episodes.setdefault(place, Episode(cooldown=COOLDOWN))
            if episode.told(Verdict(trouble, float(trouble), None)) and alert is not None:
                told.append(alert)
        return told

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists."""
        return {
            "series": self._series.state_dict(),
            "episodes": {place: episode.state_dict() for place, episode in self._episodes.items()},
            "held": dict(self._held),
            "surest": dict(self._surest),
            "scale": [list(point) for point in self._scale],
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on as saved."""
        self._series.load_state_dict(saved["series"])
        self._episodes = {place: Episode(cooldown=COOLDOWN) for place in saved["episodes"]}
        for place, episode in self._episodes.items():
            episode.load_state_dict(saved["episodes"][place])
        self._held, self._surest = dict(saved["held"]), dict(saved["surest"])
        self._scale = [(int(step), float(value)) for step, value in saved["scale"]]

    def _overconfidence(self, window: Window) -> Alert | None:
        """In an evaluation NLL less entropy has risen from its least: the model grows surer than it is right."""
        gap = window.mean.overconfidence
        if math.isnan(gap):
            return None
        least = self._surest[window.where] = min(gap, self._surest.get(window.where, math.inf))
        if gap < OVERCONFIDENT or gap - least < RISEN:
            return None
        return Alert(
            rule="overconfidence",
            step=window.step,
            level="warning",
            title=f"Predictions in {window.where} grow surer than they are right",
            text=(
                f"NLL less entropy, 0 for a calibrated model, rose from {least:.3g} to {gap:.3g} nats. Stop earlier, "
                "add label smoothing, or fit a temperature: `Recalibrator`."
            ),
            values={"overconfidence": gap, "least": least},
        )

    def _overflow(self, window: Window) -> Alert | None:
        """At the growth of the last reports float16 overflows soon."""
        if 0 < window.absmax < math.inf:
            self._scale = [*self._scale[1:], (window.step, math.log(window.absmax))]
        if window.type_name != "float16" or window.absmax < FORECAST_FROM * window.largest:
            return None
        end = forecast(self._scale, math.log(window.largest))
        if end is None or end.steps > HORIZON:
            return None
        return Alert(
            rule="overflow_ahead",
            step=window.step,
            level="warning",
            title=f"float16 overflow in about {end.steps:,.0f} steps at this growth",
            text=(
                f"The largest logit is {window.absmax:,.0f} and has grown from report to report. The limits of the "
                f"forecast are {end.soonest:,.0f} and {end.latest:,.0f} steps. Compute the last layer in float32 or "
                "bfloat16, or hold the scale: `ZLoss`, `LogitPenalty`, a soft cap."
            ),
            values={"steps": end.steps, "soonest": end.soonest, "latest": end.latest, "absmax": window.absmax},
        )
