"""What calibration was at each validation, and what two of them in a row say: the rules of `CalibrationMonitor`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from logitwatch.sinks.readings import Alert
from logitwatch.states.calibration_evidence import alarm_threshold

__all__ = ["CalibrationHistory", "Validation"]

# A rise of the NLL that is no wobble: this fraction above its lowest value, at so many validations in a row.
RISE, IN_A_ROW = 0.02, 2


class Validation(NamedTuple):
    """One validation, as the rules see it."""

    where: str  # stage, source and data loader
    step: int
    rows: int
    nll: float  # nats
    refinement: float  # NLL at the best temperature, nats
    temperature: float  # NaN where there is no best one
    confidence: float  # mean, a fraction
    accuracy: float  # a fraction
    log_e: float  # log e-value against calibration in the large

    @property
    def gap(self) -> float:
        """Mean confidence less accuracy: above 0 over-confident."""
        return self.confidence - self.accuracy


@dataclass
class _Course:
    """The validations of one data loader so far; plain numbers, for a checkpoint."""

    looks: int = 0
    alarmed: bool = False
    best_nll: float = math.inf
    best_step: int = 0
    best_error: float = 1.0
    risen: int = 0


@dataclass
class _Trained:
    """Training rows since the last validation."""

    rows: int = 0
    gaps: float = 0.0  # summed over rows
    validated: bool = False  # whether a validation has read them


@dataclass
class CalibrationHistory:
    """Two rules over the validations of a run; all it keeps is plain numbers.

    *Calibration overfitting* (Guo et al., 2017, figure 3): the NLL has risen by 2 % above its lowest value at two
    validations in a row, while the error is no higher than it was there. Said once each time it begins.

    *Miscalibration*: the e-value of validation ``k`` is at least ``k (k + 1) / alpha``, and confidence and accuracy are
    ``least_gap`` apart. Validations see the same rows again and may depend on each other in any way; the levels spent
    add up to ``alpha``, so the probability of ever raising a false alarm is below it.

    Args:
        alpha: Probability of any false alarm of miscalibration in a run whose model is calibrated.
        temperature: The best one at the last validation, NaN where there was none.
        least_gap: Gap of mean confidence and accuracy below which no alarm is worth it.

    Examples:
        >>> history = CalibrationHistory()
        >>> course = [(0.50, 0.80), (0.40, 0.85), (0.45, 0.86), (0.52, 0.87), (0.60, 0.87)]
        >>> for step, (nll, accuracy) in enumerate(course):
        ...     seen = Validation("val", step, 100, nll, 0.39, 1.7, accuracy, accuracy, 0.0)
        ...     for alert in history.validated(seen):
        ...         print(alert.step, alert.rule)
        3 calibration_overfitting
    """

    alpha: float = 0.05
    least_gap: float = 0.02
    _courses: dict[str, _Course] = field(default_factory=dict)
    temperature: float = math.nan
    _trained: _Trained = field(default_factory=_Trained)

    @property
    def train_gap(self) -> float:
        """Mean confidence less accuracy of the training rows since the validation before; NaN where there are none."""
        return self._trained.gaps / self._trained.rows if self._trained.rows else math.nan

    def trained(self, rows: int, gap: float) -> None:
        """Take up a window of training rows."""
        if self._trained.validated:
            self._trained = _Trained()
        if rows:
            self._trained.rows += rows
            self._trained.gaps += rows * gap

    def validated(self, seen: Validation) -> list[Alert]:
        """Take up one more validation; what there is to say about it."""
        self._trained.validated = True
        self.temperature = seen.temperature
        course = self._courses.setdefault(seen.where, _Course())
        alerts = [self._overfitting(course, seen), self._miscalibration(course, seen)]
        return [alert for alert in alerts if alert is not None]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        courses = {where: asdict(course) for where, course in self._courses.items()}
        return {"courses": courses, "trained": asdict(self._trained), "temperature": self.temperature}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on as saved."""
        courses = {where: _Course(**course) for where, course in saved["courses"].items()}
        # At once, or not at all.
        self._trained, self.temperature, self._courses = _Trained(**saved["trained"]), saved["temperature"], courses

    def _overfitting(self, course: _Course, seen: Validation) -> Alert | None:
        error = 1 - seen.accuracy
        if seen.nll < course.best_nll:
            course.best_nll, course.best_step, course.best_error = seen.nll, seen.step, error
        rises = seen.nll > course.best_nll * (1 + RISE) and error <= course.best_error
        course.risen = course.risen + 1 if rises else 0
        if course.risen != IN_A_ROW:
            return None
        return Alert(
            rule="calibration_overfitting",
            step=seen.step,
            level="warning",
            title="Calibration overfitting: NLL rises while the error falls",
            text=(
                f"Since step {course.best_step} the NLL on {seen.where} rose from {course.best_nll:.4g} to "
                f"{seen.nll:.4g} nats, while the error went from {course.best_error:.2%} to {error:.2%}: the model "
                f"grows more certain, not more right. {_remedy(seen)} To keep the best model, let EarlyStopping and "
                f"ModelCheckpoint monitor `calibration/val/refinement`."
            ),
            values={"nll": seen.nll, "lowest_nll": course.best_nll, "error": error},
        )

    def _miscalibration(self, course: _Course, seen: Validation) -> Alert | None:
        course.looks += 1
        threshold = math.log(alarm_threshold(course.looks, alpha=self.alpha))
        before, course.alarmed = course.alarmed, seen.log_e >= threshold and abs(seen.gap) >= self.least_gap
        if before or not course.alarmed:
            return None
        kind, what = ("over", "above") if seen.gap > 0 else ("under", "below")
        return Alert(
            rule="miscalibration",
            step=seen.step,
            level="warning",
            title=f"{kind.capitalize()}-confident by {abs(seen.gap):.1%}",
            text=(
                f"On the {seen.rows:,} rows of {seen.where} the mean confidence is {seen.confidence:.1%}, "
                f"{abs(seen.gap):.1%} {what} the accuracy of {seen.accuracy:.1%}. Chance is ruled out: the e-value is "
                f"10^{seen.log_e / math.log(10):.1f} where 10^{threshold / math.log(10):.1f} is enough, which a "
                f"calibrated model reaches in no more than {self.alpha:.0%} of runs. {_remedy(seen)}"
            ),
            values={"gap": seen.gap, "log_e": seen.log_e, "threshold": threshold},
        )


def _remedy(seen: Validation) -> str:
    saved = seen.nll - seen.refinement
    if math.isnan(seen.temperature) or not saved > 0:
        return "No temperature helps here."
    over = "label smoothing or a `ConfidencePenalty` to the loss"
    other = over if seen.temperature > 1 else "take label smoothing and penalties of the loss down"
    return (
        f"Dividing the logits by {seen.temperature:.3g} would lower the NLL by {saved:.3g} to {seen.refinement:.4g} "
        f"nats: add `logitwatch.Recalibrator()` to the callbacks, or {other}."
    )
