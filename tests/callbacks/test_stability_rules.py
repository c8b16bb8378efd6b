import math

import pytest
from helpers.windows import BFLOAT16, FLOAT16, window
from scipy.stats import binom

from logitwatch.callbacks.stability_rules import RULES

NAMES = ["cat", "dog", "bird", "fish", "horse", "cow", "pig", "hen", "fox", "owl"]


def told(rule, *, names=None, **values):
    return RULES[rule].of(window(**values), names)


def test_a_healthy_report_is_no_trouble():
    assert [rule for rule in RULES if told(rule) is not None] == []


# What is trouble, and what is just not.
CASES = {
    "nonfinite": ({"nonfinite": 1, "first_nonfinite": 41}, {"nonfinite": 0}),
    "explosion": ({"absmax": 16400.0, **FLOAT16}, {"absmax": 16370.0, **FLOAT16}),
    "precision": ({"near_tied": 11, **BFLOAT16}, {"near_tied": 10, **BFLOAT16}),
    "entropy_collapse": (
        {"mean": {"entropy": 0.045, "nll": 0.56}},
        {"mean": {"entropy": 0.045, "nll": 0.54}},
    ),
    "dominating_class": (
        {"predicted": [600, 400, *[0] * 8], "labelled": [100] * 10},
        {"predicted": [500, 500, *[0] * 8], "labelled": [100] * 10},
    ),
    "dead_class": (
        {"stage": "val", "predicted": [0, *[100] * 9], "labelled": [20, *[100] * 9]},
        {"stage": "val", "predicted": [0, *[100] * 9], "labelled": [19, *[100] * 9]},
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_tells_of_its_trouble_and_of_nothing_less(rule):
    trouble, less = CASES[rule]
    alert = told(rule, **trouble)
    assert alert.rule == rule
    assert alert.step == 100
    assert alert.level in ("warning", "critical")
    assert all(math.isfinite(value) for value in alert.values.values())
    assert told(rule, **less) is None
    assert {name for name in RULES if told(name, **trouble) is not None} == {rule}


def test_what_is_not_finite_names_its_first_step_and_in_float16_its_range():
    alert = told("nonfinite", nonfinite=3, first_nonfinite=41, **FLOAT16)
    assert alert.title == "3 of 1,000 rows of logits in train are not finite"
    assert "First at step 41" in alert.text
    assert "65,504" in alert.text
    assert "65,504" not in told("nonfinite", nonfinite=3, first_nonfinite=41).text


def test_large_logits_are_no_explosion_in_a_type_that_holds_them():
    assert told("explosion", absmax=1e6) is None
    assert told("explosion", absmax=1e6, **BFLOAT16) is None
    assert told("explosion", absmax=-math.inf) is None  # of no row


def test_near_ties_are_told_in_half_precision_and_of_enough_rows():
    alert = told("precision", near_tied=50, absmax=40.0, **BFLOAT16)
    assert "5.0% of the predictions" in alert.title
    assert alert.values["spacing"] == 0.25  # of bfloat16 from 32 to 64
    assert told("precision", near_tied=50) is None
    assert told("precision", near_tied=4, counted=8, **BFLOAT16) is None


def test_certain_and_right_is_no_collapse():
    assert told("entropy_collapse", mean={"entropy": 0.001, "nll": 0.001}) is None
    assert told("entropy_collapse", mean={"entropy": 0.001, "nll": math.nan}) is None
    assert told("entropy_collapse", mean={"entropy": 0.001, "nll": 5.0}, num_classes=1) is None


def test_the_most_frequent_class_may_be_predicted_as_often_as_it_is_there():
    labelled = [900, 100, *[0] * 8]
    assert told("dominating_class", predicted=[940, 60, *[0] * 8], labelled=labelled) is None
    alert = told("dominating_class", predicted=[1000, *[0] * 9], labelled=labelled, names=NAMES)
    assert alert.title == "Cat is predicted for 100% of the rows in train"


@pytest.mark.parametrize("rows", [10, 60, 1000])
@pytest.mark.parametrize("due", [0.05, 0.2, 0.5, 0.8])
def test_a_dominating_class_is_one_that_a_binomial_rules_out(rows, due):
    for predicted in range(rows // 2, rows + 1):
        counts, labels = [predicted, rows - predicted], [round(rows * due), rows - round(rows * due)]
        if told("dominating_class", predicted=counts, labelled=labels) is not None:
            smoothed = (round(rows * due) + 0.5) / (rows + 1)
            assert binom.sf(predicted - 1, rows, smoothed) < math.exp(-20)


def test_a_dead_class_is_told_of_in_evaluation_by_name():
    values = {"predicted": [0, 0, *[125] * 8], "labelled": [100] * 10}
    alert = told("dead_class", stage="val", names=NAMES, **values)
    assert alert.title == "2 classes are never predicted in val"
    assert alert.text.startswith("Cat, dog: 200 of 1,000 labels")
    assert told("dead_class", stage="train", **values) is None
    assert told("dead_class", stage="val", loader=1, **values).title.endswith("in val/dataloader_idx_1")


def test_a_few_names_are_enough():
    alert = told("dead_class", stage="val", predicted=[1000, *[0] * 9], labelled=[100] * 10)
    assert "Class 1, class 2, class 3, class 4, class 5 and 4 more" in alert.text
