import re
from math import inf, nan
from pathlib import Path

import pytest
import torch

from logitwatch.callbacks.loss_rules import RULES, Evidence
from logitwatch.capture.symptoms import Facts

BY_NAME = {rule.name: rule for rule in RULES}
DOCS = Path(__file__).parents[2] / "docs" / "loss_doctor.md"

FACTS = Facts(
    source="criterion",
    kind="cross_entropy",
    binary=False,
    classes=10,
    columns=1,
    ignore_index=-100,
    label_smoothing=0.0,
    reduction="mean",
    weighted=False,
    loss_type=torch.float32,
)
NLL, OURS, UNKNOWN = ({"kind": kind} for kind in ("nll_loss", "logit_loss", ""))
ANSWERS = {"kind": "binary_cross_entropy_with_logits", "binary": True, "classes": 2, "columns": 10}
SINGLE = ANSWERS | {"columns": 1}
# Of a binary run whose untrained logits lie about a half, and of a trained one that is crowded at 0.
UNTRAINED = {"values": 800, "value_total": 400, "yes": 80}
CROWDED = {"values": 800, "value_total": 240, "near_zero": 80, "yes": 400}
IGNORES = {"ignore_index": 3}
SCATTERED = {"targets": 400, "counted": 360, "ignored_pairs": 4}
SMOOTH = {"label_smoothing": 0.1}
HALF = {"loss_type": torch.bfloat16}
UNEQUAL = {"looks": 8, "counted": 800, "counted_squares": 100_000, "loss_looks": 8, "loss_rows": 800, "loss": 16}
FEWEST = {"fewest": -20, "bad_target": -inf}
FOREIGN = {"bad_target": 10, "least_bad_target": 1}


def told(rule, facts, sums, highs=None, **options):
    sums = {"looks": 4, "rows": 40} | sums
    alert = BY_NAME[rule].alert(Evidence(FACTS._replace(**facts), sums, highs or {}, **options), 7)
    return None if alert is None else alert.text


ILL = [
    ("loss_double_softmax", {}, {"probability_rows": 40}, {}),
    ("loss_double_softmax", OURS, {"probability_rows": 40}, {}),
    ("loss_log_probabilities", {}, {"log_probability_rows": 40}, {}),
    ("loss_nll_of_logits", NLL, {"unnormalised_rows": 36, "log_partition": 92}, {}),
    ("loss_double_sigmoid", ANSWERS, UNTRAINED, {}),
    ("loss_double_sigmoid", SINGLE, CROWDED, {}),
    ("loss_ignored_class", IGNORES, SCATTERED, {}),
    ("loss_smoothed_absent_class", SMOOTH, {"absent_rows": 3, "infinite_looks": 1}, {}),
    ("loss_unequal_batches", {}, UNEQUAL, {"highs": FEWEST, "accumulation": 2}),
    ("loss_half_precision", HALF, {"shadow": 2.3, "shadowed": 2.296875}, {}),
    ("loss_foreign_targets", UNKNOWN, {"bad_targets": 4, "targets": 40}, {"highs": FOREIGN}),
    ("loss_foreign_answers", ANSWERS, {"bad_targets": 4, "targets": 40}, {"highs": FOREIGN}),
    ("loss_several_classes", {}, {"several_targets": 4, "counted": 40}, {}),
    ("loss_all_ignored", {}, {"looks": 6, "empty_looks": 5, "targets": 96, "counted": 16}, {}),
    ("loss_all_ignored", {}, {"looks": 5, "empty_looks": 5, "targets": 128}, {}),
    ("loss_bad_weights", {}, {"bad_weights": 4}, {}),
    ("loss_constant_logits", {}, {"looks": 5, "constant_looks": 5}, {}),
]


@pytest.mark.parametrize(("rule", "facts", "sums", "options"), ILL)
def test_where_it_is_certain_it_is_said_with_the_fix(rule, facts, sums, options):
    text = told(rule, facts, sums, **options)
    assert "criterion" in text
    assert "{" not in text
    fix = re.sub(r"\\{.*?\\}", ".+?", re.escape(BY_NAME[rule].fix))
    assert re.search(f"{fix}$", text)


WELL = [
    ("loss_double_softmax", {}, {"probability_rows": 39}, {}),
    ("loss_double_softmax", {}, {"probability_rows": 40, "looks": 2}, {}),
    ("loss_double_softmax", {}, {"probability_rows": 0, "rows": 0}, {}),
    ("loss_double_softmax", {"classes": 1}, {"probability_rows": 40}, {}),
    ("loss_double_softmax", UNKNOWN, {"probability_rows": 40}, {}),
    ("loss_double_softmax", NLL, {"probability_rows": 40}, {}),
    ("loss_log_probabilities", {}, {"log_probability_rows": 39}, {}),
    ("loss_log_probabilities", NLL, {"log_probability_rows": 40}, {}),
    ("loss_log_probabilities", {}, {"log_probability_rows": 40, "looks": 2}, {}),
    ("loss_nll_of_logits", NLL, {"unnormalised_rows": 35}, {}),
    ("loss_nll_of_logits", {}, {"unnormalised_rows": 40}, {}),
    ("loss_nll_of_logits", UNKNOWN, {"unnormalised_rows": 40}, {}),
    ("loss_nll_of_logits", NLL, {"unnormalised_rows": 40, "looks": 2}, {}),
    ("loss_double_sigmoid", ANSWERS, UNTRAINED | {"outside": 1}, {}),
    ("loss_double_sigmoid", ANSWERS, UNTRAINED | {"values": 400, "value_total": 200}, {}),
    ("loss_double_sigmoid", ANSWERS, UNTRAINED | {"yes": 480}, {}),
    ("loss_double_sigmoid", ANSWERS, UNTRAINED | {"value_total": 160}, {}),
    ("loss_double_sigmoid", SINGLE, UNTRAINED, {}),
    ("loss_double_sigmoid", SINGLE, CROWDED | {"near_zero": 30}, {}),
    ("loss_double_sigmoid", SINGLE, CROWDED | {"value_total": 24}, {}),
    ("loss_double_sigmoid", {}, CROWDED, {}),
    ("loss_ignored_class", {}, SCATTERED, {}),
    ("loss_ignored_class", {"ignore_index": 10}, SCATTERED, {}),
    ("loss_ignored_class", IGNORES | {"columns": 0}, SCATTERED, {}),
    ("loss_ignored_class", IGNORES, SCATTERED | {"ignored_pairs": 30}, {}),
    ("loss_ignored_class", IGNORES, SCATTERED | {"targets": 4000, "counted": 3990}, {}),
    ("loss_ignored_class", IGNORES, SCATTERED | {"counted": 100}, {}),
    ("loss_ignored_class", IGNORES, {"targets": 90, "counted": 81}, {}),
    ("loss_ignored_class", IGNORES | {"classes": 32_000}, SCATTERED, {}),
    ("loss_smoothed_absent_class", {}, {"absent_rows": 3, "infinite_looks": 1}, {}),
    ("loss_smoothed_absent_class", SMOOTH, {"absent_rows": 3}, {}),
    ("loss_smoothed_absent_class", SMOOTH, {"infinite_looks": 1}, {}),
    ("loss_smoothed_absent_class", SMOOTH | OURS, {"absent_rows": 3, "infinite_looks": 1}, {}),
    ("loss_unequal_batches", {}, UNEQUAL, {"highs": FEWEST}),
    ("loss_unequal_batches", {}, UNEQUAL, {"highs": FEWEST, "accumulation": 2, "training": False}),
    ("loss_unequal_batches", {"reduction": "sum"}, UNEQUAL, {"highs": FEWEST, "accumulation": 2}),
    ("loss_unequal_batches", {"weighted": True}, UNEQUAL, {"highs": FEWEST, "accumulation": 2}),
    ("loss_unequal_batches", {"ignore_index": None}, UNEQUAL, {"highs": FEWEST, "accumulation": 2}),
    ("loss_unequal_batches", {}, UNEQUAL | {"loss_looks": 6}, {"highs": FEWEST, "accumulation": 2}),
    (  # one small batch, the last of an epoch
        "loss_unequal_batches",
        {},
        UNEQUAL | {"counted": 7 * 16 + 4, "counted_squares": 7 * 256 + 16},
        {"highs": {"fewest": -4}, "accumulation": 2},
    ),
    ("loss_half_precision", HALF, {}, {}),
    ("loss_half_precision", {}, {"shadow": 2.3, "shadowed": 2.296875}, {}),
    ("loss_half_precision", HALF, {"shadow": 2.3, "shadowed": nan}, {}),
    ("loss_foreign_targets", UNKNOWN, {"targets": 40}, {"highs": {"bad_target": -inf}}),
    ("loss_foreign_answers", ANSWERS, {"targets": 40}, {}),
    ("loss_several_classes", {}, {"several_targets": 3, "counted": 40}, {}),
    ("loss_several_classes", UNKNOWN, {"several_targets": 40, "counted": 40}, {}),
    ("loss_all_ignored", {}, {"looks": 4, "empty_looks": 4, "targets": 128}, {}),
    ("loss_all_ignored", {}, {"looks": 12, "empty_looks": 5, "targets": 192, "counted": 112}, {}),
    ("loss_all_ignored", {}, {"looks": 7, "empty_looks": 5, "targets": 56, "counted": 3}, {}),
    ("loss_all_ignored", {}, {"looks": 5, "empty_looks": 5, "targets": 40}, {}),
    ("loss_all_ignored", {"ignore_index": None}, {"looks": 5, "empty_looks": 5, "targets": 128}, {}),
    ("loss_bad_weights", {}, {"bad_weights": 0}, {}),
    ("loss_constant_logits", {}, {"looks": 4, "constant_looks": 4}, {}),
    ("loss_constant_logits", {}, {"looks": 6, "constant_looks": 5}, {}),
    ("loss_constant_logits", {}, {"looks": 5, "constant_looks": 5}, {"training": False}),
]


@pytest.mark.parametrize(("rule", "facts", "sums", "options"), WELL)
def test_where_it_is_not_nothing_is_said(rule, facts, sums, options):
    assert told(rule, facts, sums, **options) is None


def test_the_numbers_are_in_the_sentence_and_in_the_values():
    facts = FACTS._replace(kind="nll_loss")
    sums = {"looks": 3, "rows": 40, "unnormalised_rows": 40, "log_partition": 92}
    alert = BY_NAME["loss_nll_of_logits"].alert(Evidence(facts, sums, {}), 7)
    assert (alert.rule, alert.step, alert.level, alert.values) == (
        "loss_nll_of_logits",
        7,
        "critical",
        {"log_partition": 2.3},
    )
    assert "log-partition is 2.3 nats in the mean" in alert.text


def test_accumulation_tells_the_mean_over_rows_beside_the_mean_of_means():
    sums = UNEQUAL | {"row_loss": 2400}
    text = told("loss_unequal_batches", {}, sums, highs=FEWEST, accumulation=4)
    assert "each of the 4 batches" in text
    assert "the mean of the means is 2 and the mean over rows 3 nats" in text


@pytest.mark.parametrize(("returned", "level"), [(2.296875, "info"), (2.3, "info"), (2.2, "warning"), (inf, "warning")])
def test_a_loss_in_half_precision_is_a_warning_where_it_is_off_by_more_than_rounding(returned, level):
    facts = FACTS._replace(loss_type=torch.bfloat16)
    alert = BY_NAME["loss_half_precision"].alert(Evidence(facts, {"shadow": 2.3, "shadowed": returned}, {}), 0)
    assert alert.level == level
    assert "in bfloat16, which has a resolution of 0.78%" in alert.text


def test_an_index_beyond_the_classes_is_told_with_its_range():
    sums = {"bad_targets": 4, "targets": 40}
    text = told("loss_foreign_targets", UNKNOWN, sums, highs=FOREIGN)
    assert text.startswith("10.0% of the targets of `criterion`, from -1 to 10, are neither a class, 0 to 9, nor")


def test_the_documentation_has_every_sentence_as_it_is_said():
    page = DOCS.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `loss_")]
    assert rows == [re.sub(r"\{.*?\}", "…", f"| `{r.name}` | {r.title} | {r.sentence} | {r.fix} |") for r in RULES]
