"""The rules of `StabilityGuard` on one report: what each calls trouble, why it happens, and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from logitwatch.callbacks.stability_window import Window
from logitwatch.sinks.readings import Alert

__all__ = ["RULES", "Rule"]

# Rows a mean is taken of before it says anything.
FEWEST_ROWS = 32
# Of the range of a type: from here on a step or two of growth ends in infinity.
RANGE_USED = 0.25
# Share of the rows whose prediction is rounding, and how many make a share.
NEAR_TIES, SEVERAL = 0.01, 5
# Of ln(classes): below it a prediction has one class. It is a collapse where the loss is so much above it, in nats.
COLLAPSED, AMISS = 0.02, 0.5
# A class that is predicted so many times as often as it is the target, or closes half of the way from there to all.
DOMINANT = 5.0
# Chance is ruled out where the probability of it is below exp(-20), two in a billion.
RULED_OUT = 20.0
# Names in a text.
MOST_NAMES = 5

_Names = Sequence[str] | None


def _nonfinite(window: Window, names: _Names) -> Alert | None:
    """A row with NaN or +inf, or without any present class."""
    if window.nonfinite == 0:
        return None
    half = " In float16 +inf is whatever is above 65,504: use bfloat16, or scale the last layer down."
    return Alert(
        rule="nonfinite",
        step=window.step,
        level="critical",
        title=f"{window.nonfinite:,} of {window.rows:,} rows of logits in {window.where} are not finite",
        text=(
            f"First at step {window.first_nonfinite}. From the loss it reaches every weight in one step. Lower the "
            "learning rate, clip gradients, and look for a division or logarithm of 0 and for bad inputs."
            + (half if window.type_name == "float16" else "")
        ),
        values={"rows": window.nonfinite, "first_step": float(window.first_nonfinite or 0)},
    )


def _explosion(window: Window, names: _Names) -> Alert | None:
    """The largest magnitude is a quarter of what the type of the logits can hold."""
    used = window.absmax / window.largest
    if not used > RANGE_USED:
        return None
    return Alert(
        rule="explosion",
        step=window.step,
        level="critical",
        title=f"Logits in {window.where} use {used:.0%} of the range of {window.type_name}",
        text=(
            f"The largest magnitude is {window.absmax:,.0f}, and above {window.largest:,.0f} there is only infinity. "
            "Compute the last layer in float32 or bfloat16, and hold the scale: `ZLoss`, `LogitPenalty`, a soft cap."
        ),
        values={"absmax": window.absmax, "largest": window.largest},
    )


def _precision(window: Window, names: _Names) -> Alert | None:
    """Of one row in a hundred, which class is predicted is rounding."""
    share = window.near_tied / max(1, window.counted)
    if window.near_tied < SEVERAL or not window.half or share <= NEAR_TIES:
        return None
    unit = window.spacing * 2.0 ** math.floor(math.log2(max(window.absmax, 1.0)))
    return Alert(
        rule="precision",
        step=window.step,
        level="warning",
        title=f"{share:.1%} of the predictions in {window.where} are decided by rounding",
        text=(
            f"Their two largest logits are equal or neighbours in {window.type_name}, whose spacing at the largest "
            f"magnitude, {window.absmax:.3g}, is {unit:.3g}. Compute the last layer in float32; where the logits are "
            "large, hold their scale with `ZLoss` or a soft cap."
        ),
        values={"share": share, "absmax": window.absmax, "spacing": unit},
    )


def _entropy_collapse(window: Window, names: _Names) -> Alert | None:
    """Predictions are certain, and the loss says that they are wrong."""
    entropy, loss = window.mean.entropy, window.mean.nll
    if window.counted < FEWEST_ROWS or window.num_classes < 2:
        return None
    certain = entropy / math.log(window.num_classes) < COLLAPSED
    if not (certain and loss > entropy + AMISS):
        return None
    return Alert(
        rule="entropy_collapse",
        step=window.step,
        level="warning",
        title=f"Predictions in {window.where} are certain and wrong",
        text=(
            f"Their entropy is {entropy:.3g} nats of {math.log(window.num_classes):.3g}, while the NLL is {loss:.3g}. "
            "A calibrated model has both alike. Look at the labels first; then lower the learning rate, and add "
            "`ConfidencePenalty` or label smoothing."
        ),
        values={"entropy": entropy, "nll": loss},
    )


def _dominating_class(window: Window, names: _Names) -> Alert | None:
    """One class is predicted for most rows and is the target of few."""
    rows = sum(window.predicted)
    if rows == 0:
        return None
    most = max(range(len(window.predicted)), key=window.predicted.__getitem__)
    share, due = window.predicted[most] / rows, (window.labelled[most] + 0.5) / (rows + 1)
    if share <= 0.5 or share < min(DOMINANT * due, (1 + due) / 2) or rows * _divergence(share, due) < RULED_OUT:
        return None
    return Alert(
        rule="dominating_class",
        step=window.step,
        level="warning",
        title=f"{_named([most], names)} is predicted for {share:.0%} of the rows in {window.where}",
        text=(
            f"It is the target of {due:.1%} of them. A classifier that says one thing learns little: look for a "
            "learning rate that is too high, dead units before the head, and a bias that grew; for classes of unequal "
            "size use `LogitAdjustedCrossEntropy`."
        ),
        values={"class": float(most), "predicted": share, "labelled": due},
    )


def _dead_class(window: Window, names: _Names) -> Alert | None:
    """A class with labels is never predicted, in an evaluation."""
    if window.stage == "train" or not window.predicted:
        return None
    dead = [k for k, n in enumerate(window.labelled) if n >= RULED_OUT and window.predicted[k] == 0]
    if not dead:
        return None
    labels = sum(window.labelled[k] for k in dead)
    return Alert(
        rule="dead_class",
        step=window.step,
        level="warning",
        title=f"{_named(dead, names)} is never predicted in {window.where}"
        if len(dead) == 1
        else f"{len(dead)} classes are never predicted in {window.where}",
        text=(
            f"{_named(dead, names)}: {labels:,} of {sum(window.labelled):,} labels, and not one prediction; at their "
            "rate the chance of that is below 1 in 10^8. Look whether training has these classes under the same "
            "numbers; for rare ones use `LogitAdjustedCrossEntropy` or `BalancedSoftmax`."
        ),
        values={"classes": float(len(dead)), "labels": float(labels)},
    )


class Rule(NamedTuple):
    """A rule, at how many reports in a row it has to hold before it is told, and how many where it has held from the
    first one: a network that has learned nothing yet may say one thing."""

    of: Callable[[Window, _Names], Alert | None]
    in_a_row: int
    at_first: int


RULES = {
    "nonfinite": Rule(_nonfinite, 1, 1),
    "explosion": Rule(_explosion, 1, 1),
    "precision": Rule(_precision, 2, 2),
    "entropy_collapse": Rule(_entropy_collapse, 2, 2),
    "dominating_class": Rule(_dominating_class, 2, 10),
    "dead_class": Rule(_dead_class, 2, 10),
}


def _divergence(p: float, q: float) -> float:
    """Of two coins, in nats: n tosses of the second show p n heads or more with probability ``exp(-n D)`` at most."""
    return sum(a * math.log(a / b) for a, b in ((p, q), (1 - p, 1 - q)) if a > 0)


def _named(classes: Sequence[int], names: _Names) -> str:
    """The classes by name, or by number where there are no names."""
    shown = [str(names[k]) if names is not None and k < len(names) else f"class {k}" for k in classes[:MOST_NAMES]]
    more = f" and {len(classes) - MOST_NAMES} more" if len(classes) > MOST_NAMES else ""
    text = ", ".join(shown) + more
    return text[:1].upper() + text[1:]
