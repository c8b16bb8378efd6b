"""What the loss doctor knows: for each illness of a loss when it is certain, and the sentence with the fix."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from logitwatch.capture.symptoms import HALF_TYPES, Facts
from logitwatch.sinks.readings import Alert

__all__ = ["RULES", "Evidence", "Rule"]

# Criteria that take logits and apply the softmax themselves.
SOFTMAX = ("cross_entropy", "logit_loss")
# Looks after which chance is out of the question, and for what may look ill in the first steps of a healthy run.
FEW_LOOKS, MANY_LOOKS = 3, 5
FEWEST_VALUES = 500
FEWEST_TARGETS = 128
# Columns of yes-or-no logits of which, untrained, half would be negative.
FEWEST_COLUMNS = 10


class Evidence(NamedTuple):
    """What was seen of one criterion, as plain numbers; see `Symptoms`.

    Attributes:
        facts: Of the last call.
        sums, highs: Numbers added up over the looks, or the largest of them; what no look had is 0 or ``-inf``.
        accumulation: Batches for each optimizer step.
        training: Whether it was seen in training steps.
    """

    facts: Facts
    sums: Mapping[str, float]
    highs: Mapping[str, float]
    accumulation: int = 1
    training: bool = True

    def sum(self, name: str) -> float:
        """A number added up over the looks."""
        return self.sums.get(name, 0.0)

    def share(self, part: str, whole: str) -> float:
        """One of the sums as a fraction of another; 0 where there is nothing to be a part of."""
        return self.sum(part) / self.sum(whole) if self.sum(whole) else 0.0


@dataclass(frozen=True)
class Rule:
    """One illness.

    Attributes:
        name: As in the tag ``alerts/<name>``.
        title: What is wrong, in a few words.
        sentence: What was seen and what it does; numbers of `finding` and facts in braces.
        fix: What to do.
        finding: The numbers of the sentence where the illness is certain, else None.
        level: See `Alert`.
    """

    name: str
    title: str
    sentence: str
    fix: str
    finding: Callable[[Evidence], dict[str, Any] | None]
    level: str = "warning"

    def alert(self, evidence: Evidence, step: int) -> Alert | None:
        """What to say of the evidence; None where it is not certain."""
        found = self.finding(evidence)
        if found is None:
            return None
        level = found.pop("level", self.level)
        words = {**evidence.facts._asdict(), "looks": int(evidence.sum("looks")), **found}
        values = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
        text = f"{self.sentence.format_map(words)} {self.fix.format_map(words)}"
        return Alert(rule=self.name, step=step, level=level, title=self.title, text=text, values=values)


def _probabilities(e: Evidence) -> dict[str, Any] | None:
    certain = e.sum("probability_rows") == e.sum("rows") > 0 and e.sum("looks") >= FEW_LOOKS
    if e.facts.kind not in SOFTMAX or e.facts.classes < 2 or not certain:
        return None
    return {"floor": math.log(math.e + e.facts.classes - 1) - 1}


def _log_probabilities(e: Evidence) -> dict[str, Any] | None:
    certain = e.sum("log_probability_rows") == e.sum("rows") > 0 and e.sum("looks") >= FEW_LOOKS
    return {} if e.facts.kind in SOFTMAX and e.facts.classes >= 2 and certain else None


def _no_log_probabilities(e: Evidence) -> dict[str, Any] | None:
    certain = e.share("unnormalised_rows", "rows") >= 0.9 and e.sum("looks") >= FEW_LOOKS
    if e.facts.kind != "nll_loss" or not certain:
        return None
    return {"log_partition": e.share("log_partition", "rows")}


def _sigmoid_twice(e: Evidence) -> dict[str, Any] | None:
    n, mean = e.sum("values"), e.share("value_total", "values")
    confined = e.facts.binary and e.sum("outside") == 0 and n >= FEWEST_VALUES and e.sum("looks") >= FEW_LOOKS
    if not confined:
        return None
    # A spread-out distribution that ends at a bound has been cut there. Untrained, all columns lie about a half, where
    # logits of rare answers are on both sides of zero, and soon below it.
    spread = 0.1 <= mean <= 0.9 and (e.share("near_zero", "values") >= 0.05 or e.share("near_one", "values") >= 0.05)
    untrained = e.facts.columns >= FEWEST_COLUMNS and 0.3 <= mean <= 0.7 and e.share("yes", "values") < 0.4
    return {"mean": mean} if spread or untrained else None


def _ignored_class(e: Evidence) -> dict[str, Any] | None:
    index, classes = e.facts.ignore_index, e.facts.classes
    if index is None or not 0 <= index < classes or classes > 1000 or e.sum("looks") < FEW_LOOKS:
        return None
    ignored = e.sum("targets") - e.sum("counted")
    share = ignored / max(1.0, e.sum("targets"))
    # Padding comes in runs and as often as sequences are short; a class is scattered and about as frequent as others.
    scattered = e.sum("ignored_pairs") <= (0.25 + 0.75 * share) * ignored
    frequent = 0.25 <= share * classes <= 4 and share <= 0.5
    return {"share": share} if ignored >= 10 and scattered and frequent and e.facts.columns == 1 else None


def _smoothed_absent(e: Evidence) -> dict[str, Any] | None:
    ill = e.facts.kind == "cross_entropy" and e.facts.label_smoothing > 0
    return {} if ill and e.sum("absent_rows") and e.sum("infinite_looks") else None


def _unequal_counts(e: Evidence) -> dict[str, Any] | None:
    f, n, looks = e.facts, e.sum("loss_rows"), e.sum("loss_looks")
    mean_of_rows = f.kind in (*SOFTMAX, "nll_loss") and f.reduction == "mean" and not f.weighted
    if not (e.training and e.accumulation > 1 and mean_of_rows and looks >= 7) or f.ignore_index is None:
        return None
    # The batch with the fewest rows is left out: it may be the last of an epoch.
    least, rest = -e.highs["fewest"], e.sum("looks") - 1
    mean = (e.sum("counted") - least) / rest
    variance = (e.sum("counted_squares") - least**2) / rest - mean**2
    if mean <= 0 or math.sqrt(max(0.0, variance)) < 0.2 * mean:
        return None
    batches = e.accumulation
    return {"mean_loss": e.sum("loss") / looks, "row_loss": e.sum("row_loss") / n, "batches": batches, "least": least}


def _half_loss(e: Evidence) -> dict[str, Any] | None:
    returned, exact = e.sum("shadowed"), e.sum("shadow")
    if e.facts.loss_type not in HALF_TYPES or "shadow" not in e.sums or math.isnan(returned) or math.isnan(exact):
        return None
    spacing = torch.finfo(e.facts.loss_type).eps
    worse = abs(returned - exact) > spacing * abs(exact)
    name = str(e.facts.loss_type).removeprefix("torch.")
    level = "warning" if worse else "info"
    return {"returned": returned, "exact": exact, "spacing": spacing, "half_type": name, "level": level}


def _foreign_targets(e: Evidence) -> dict[str, Any] | None:
    bad = e.sum("bad_targets")
    if not bad or e.highs["bad_target"] == -math.inf or e.facts.binary:
        return None
    return {
        "share": bad / e.sum("targets"),
        "least": -e.highs["least_bad_target"],
        "largest": e.highs["bad_target"],
        "last": e.facts.classes - 1,
    }


def _foreign_answers(e: Evidence) -> dict[str, Any] | None:
    if not e.facts.binary or not e.sum("bad_targets") or e.sum("looks") < FEW_LOOKS:
        return None
    least, largest = -e.highs["least_bad_target"], e.highs["bad_target"]
    return {"share": e.sum("bad_targets") / e.sum("targets"), "least": least, "largest": largest}


def _several_classes(e: Evidence) -> dict[str, Any] | None:
    share = e.share("several_targets", "counted")
    ill = e.facts.kind in SOFTMAX and e.sum("looks") >= FEW_LOOKS and share >= 0.1
    return {"share": share} if ill else None


def _all_ignored(e: Evidence) -> dict[str, Any] | None:
    empty, targets = e.sum("empty_looks"), e.sum("targets")
    if e.facts.ignore_index is None or empty < MANY_LOOKS or e.share("empty_looks", "looks") < 0.5:
        return None
    # Where few targets are drawn, as of masked words, a small batch may have none by chance.
    others = e.sum("looks") - empty
    by_chance = e.sum("counted") < 3 * others if others else targets < FEWEST_TARGETS
    return None if by_chance else {"empty": int(empty)}


def _bad_weights(e: Evidence) -> dict[str, Any] | None:
    return {"bad": int(e.sum("bad_weights") / e.sum("looks"))} if e.sum("bad_weights") else None


def _constant(e: Evidence) -> dict[str, Any] | None:
    ill = e.training and e.sum("constant_looks") == e.sum("looks") >= MANY_LOOKS
    return {} if ill else None


RULES = (
    Rule(
        name="loss_double_softmax",
        title="Softmax is applied twice",
        sentence="`{source}` is given probabilities, rows that are never negative and add up to 1, and applies softmax "
        "to them again, so that with {classes} classes the loss cannot fall below {floor:.3g} nats.",
        fix="Pass it the logits, what goes into your softmax.",
        finding=_probabilities,
    ),
    Rule(
        name="loss_log_probabilities",
        title="Log-softmax is applied twice",
        sentence="`{source}` is given log-probabilities, whose log-partition is 0 in every row: it applies log-softmax "
        "again, which changes nothing and costs a pass over the logits.",
        fix="Pass it the logits, or use `NLLLoss`.",
        finding=_log_probabilities,
        level="info",
    ),
    Rule(
        name="loss_nll_of_logits",
        title="NLLLoss is not given log-probabilities",
        sentence="`{source}` expects log-probabilities and is given rows whose log-partition is {log_partition:.3g} "
        "nats in the mean where 0 is right, so that its value is no likelihood and may fall without learning.",
        fix="Use `CrossEntropyLoss`, or apply `log_softmax` first.",
        finding=_no_log_probabilities,
        level="critical",
    ),
    Rule(
        name="loss_double_sigmoid",
        title="Sigmoid is applied twice",
        sentence="`{source}` is given logits that all lie between 0 and 1, as probabilities do, and takes them for "
        "answers between 50% and 73% yes.",
        fix="Pass it the logits, what goes into your sigmoid.",
        finding=_sigmoid_twice,
    ),
    Rule(
        name="loss_ignored_class",
        title="A class is ignored",
        sentence="`{source}` has ignore_index={ignore_index}, which is one of its {classes} classes: {share:.1%} of "
        "the rows have it, scattered as a class is and padding is not, and are not learned from.",
        fix="Leave ignore_index at -100 unless class {ignore_index} is padding.",
        finding=_ignored_class,
    ),
    Rule(
        name="loss_smoothed_absent_class",
        title="Label smoothing on absent classes",
        sentence="`{source}` has label_smoothing={label_smoothing:g} and gives mass to classes that are masked with "
        "logits of -inf, so that the loss is infinite.",
        fix="Use `logitwatch.losses.CrossEntropyLoss`, which smooths over the present classes.",
        finding=_smoothed_absent,
        level="critical",
    ),
    Rule(
        name="loss_unequal_batches",
        title="Accumulated batches count unequal numbers of rows alike",
        sentence="`{source}` takes the mean of each of the {batches} batches of an optimizer step, which count unequal "
        "numbers of rows: in those looked at the mean of the means is {mean_loss:.4g} and the mean over rows "
        "{row_loss:.4g} nats.",
        fix="Use reduction='sum' and divide by the number of rows of the whole step.",
        finding=_unequal_counts,
    ),
    Rule(
        name="loss_half_precision",
        title="The loss is computed in half precision",
        sentence="`{source}` returned {returned:.6g} in {half_type}, which has a resolution of {spacing:.2%}, where "
        "the same logits in float32 give {exact:.6g}.",
        fix="Pass it `logits.float()`.",
        finding=_half_loss,
    ),
    Rule(
        name="loss_foreign_targets",
        title="Targets that are no class",
        sentence="{share:.1%} of the targets of `{source}`, from {least:g} to {largest:g}, are neither a class, 0 to "
        "{last}, nor ignore_index={ignore_index}.",
        fix="Number the classes from 0, or name the target to be ignored as ignore_index.",
        finding=_foreign_targets,
    ),
    Rule(
        name="loss_foreign_answers",
        title="Yes-or-no targets outside 0 to 1",
        sentence="{share:.1%} of the targets of `{source}`, from {least:g} to {largest:g}, are no probabilities, and "
        "the loss of such a target has no minimum.",
        fix="Give it 1 for yes and 0 for no.",
        finding=_foreign_answers,
    ),
    Rule(
        name="loss_several_classes",
        title="Several classes in one target",
        sentence="{share:.1%} of the targets of `{source}` name two classes or more with 1 each, where softmax has a "
        "probability of 1 for all of them together.",
        fix="Use `BCEWithLogitsLoss` for labels that go together, or let each target add up to 1.",
        finding=_several_classes,
    ),
    Rule(
        name="loss_all_ignored",
        title="Batches without a target",
        sentence="In {empty} of the {looks} batches looked at every target of `{source}` was "
        "ignore_index={ignore_index}, so that there was nothing to learn from.",
        fix="Check how targets are masked and where sequences are cut off.",
        finding=_all_ignored,
    ),
    Rule(
        name="loss_bad_weights",
        title="Class weights that are no weights",
        sentence="{bad} of the weights of `{source}` are NaN, infinite or negative.",
        fix="Compute them from counts of at least 1.",
        finding=_bad_weights,
        level="critical",
    ),
    Rule(
        name="loss_constant_logits",
        title="The logits do not depend on the input",
        sentence="`{source}` was given the same logits for every row of a batch, in all {looks} batches looked at, "
        "though their targets differ.",
        fix="Look for dead ReLUs (a smaller learning rate), inputs that are all alike, or a head that is not trained.",
        finding=_constant,
    ),
)
