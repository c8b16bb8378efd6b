import math

import torch

from logitwatch.callbacks.attention_layers import AttentionLayers
from logitwatch.callbacks.attention_report import attention_readings, attention_report
from logitwatch.callbacks.tags import Tags
from logitwatch.functional.attention import head_statistics
from logitwatch.sinks.readings import Heatmap, Scalars
from logitwatch.states.attention_summary import AttentionSummary


def rows_of(*sizes, bound=None):
    """Heads of one row each, of two keys a logit of this size and 0."""
    z = torch.tensor([[[[size, 0.0]] for size in sizes]])
    return head_statistics(z, bound=None if bound is None else torch.full((len(sizes),), bound))


def entropy(size):
    p = 1 / (1 + math.exp(-size))
    return -(p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(2) if p < 1 else 0.0


LAYERS = AttentionLayers(["never", "small", "large"])
SUMMARY = LAYERS.summary({"large": rows_of(1.0, -4.0, 2.0, bound=9.0), "small": rows_of(3.0, bound=5.0)}, unread=2)


def test_what_was_seen_is_told_with_names_and_what_was_not_is_not():
    report = attention_report(SUMMARY, LAYERS.names, Tags("val", 1), 7)
    assert (report.where, report.step, report.layers) == ("val (data loader 1)", 7, ["small", "large"])
    nan = math.nan
    for numbers, expected in (
        (report.max_logit, [[3.0, nan, nan], [1.0, 4.0, 2.0]]),
        (report.bound, [[5.0, nan, nan], [9.0, 9.0, 9.0]]),
        (report.entropy, [[entropy(3), nan, nan], [entropy(1), entropy(4), entropy(2)]]),
    ):
        torch.testing.assert_close(numbers, torch.tensor(expected).double(), equal_nan=True, rtol=1e-5, atol=1e-6)


def test_every_head_counts_alike_in_the_mean():
    report = attention_report(SUMMARY, LAYERS.names, Tags("val"), 7)
    scalars, *maps = attention_readings(report, SUMMARY, Tags("val"))
    assert isinstance(scalars, Scalars)
    values = {tag.removeprefix("attention/val/"): value for tag, value in scalars.values.items()}
    each = [entropy(size) for size in (3, 1, 4, 2)]
    expected = {"max_logit": 4.0, "max_logit_bound": 9.0, "entropy": sum(each) / 4, "entropy_min": min(each)}
    expected |= {"rows": 4, "nonfinite": 0, "unread": 2, "left_out": 0}
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert math.isclose(values[name], value, rel_tol=1e-5), name
    assert [type(reading) for reading in maps] == [Heatmap, Heatmap]
    assert [reading.tag for reading in maps] == ["attention/val/max_logit_by_head", "attention/val/entropy_by_head"]
    assert maps[0].row_labels == ["small", "large"]
    assert maps[0].column_labels == ["head 0", "head 1", "head 2"]
    assert maps[0].values[1] == [1.0, 4.0, 2.0]
    assert maps[0].unit == "logit"


def test_numbers_that_are_not_finite_are_counted_and_left_out():
    summary = LAYERS.summary({"small": rows_of(math.nan, math.nan, bound=math.inf)})
    report = attention_report(summary, LAYERS.names, Tags("train"), 0)
    scalars, *_ = attention_readings(report, summary, Tags("train"))
    assert scalars.values == {
        f"attention/train/{name}": count
        for name, count in (("rows", 2), ("nonfinite", 2), ("unread", 0), ("left_out", 0))
    }


def test_a_layer_without_a_name_has_its_number():
    report = attention_report(SUMMARY, ["never", "small"], Tags("val"), 7)
    assert report.layers == ["small", "layer 2"]


def test_of_nothing_there_is_nothing():
    assert attention_report(AttentionSummary.empty(), [], Tags("val"), 7).layers == []
