import json
import math

import numpy as np
import pytest
import torch
from helpers.reports import every_kind, histogram

from logitwatch.sinks.readings import Scalars
from logitwatch.sinks.report_lines import ReportLines

NOW = "1790000000.125"


def parsed(lines):
    return [json.loads(line + b"}") for line in lines]


def test_each_line_is_an_object_without_its_last_brace():
    records = parsed(ReportLines().of(every_kind(step=7), NOW))
    assert {record["step"] for record in records} == {7}
    assert {record["time"] for record in records} == {1790000000.125}
    kinds = [record["kind"] for record in records]
    assert kinds == ["scalar", "scalar", "histogram", "curve", "heatmap", "table", "text", "alert", "figure"]


def test_a_tag_is_explained_on_its_first_line_alone():
    lines = ReportLines()
    report = [Scalars(values={"logits/val/entropy": 0.5}, step=1), histogram()]
    first, again = parsed(lines.of(report, NOW)), parsed(lines.of(report, NOW))
    assert all("meaning" in record for record in first)
    assert not any("meaning" in record for record in again)
    for one, other in zip(first, again, strict=True):
        del one["meaning"]
        assert one == other


@pytest.mark.parametrize("value", [2, True, np.float64(0.1), np.float32(0.5), np.int64(3), torch.tensor(0.25), 1e308])
def test_every_sort_of_number_is_written_as_its_float(value):
    (record,) = parsed(ReportLines().of([Scalars(values={"a": value}, step=np.int64(3))], NOW))
    assert record["value"] == float(value)
    assert record["step"] == 3


def test_numbers_that_are_not_finite_leave_the_others_alone():
    values = {"a": 0.1, "b": math.nan, "c": 2, "d": math.inf, "e": -math.inf, "f": 1e308, "g": 1e308}
    records = parsed(ReportLines().of([Scalars(values=values, step=1)], NOW))
    assert [record["value"] for record in records] == [0.1, "NaN", 2.0, "Infinity", "-Infinity", 1e308, 1e308]


def test_finite_numbers_whose_sum_is_not_are_numbers():
    values = dict.fromkeys("abc", 1.5e308)
    assert [r["value"] for r in parsed(ReportLines().of([Scalars(values=values, step=1)], NOW))] == [1.5e308] * 3


def test_no_readings_are_no_lines():
    assert ReportLines().of([], NOW) == ReportLines().of([Scalars(values={}, step=1)], NOW) == []
