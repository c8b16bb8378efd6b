import json
import math

import pytest
import torch

from logitwatch.figures.plain import drawn, number, numbers, spelled


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_is_none(value):
    assert number(torch.tensor(value)) is None
    assert json.dumps(numbers(torch.tensor([0.5, value])), allow_nan=False) == "[0.5, null]"


def test_none_is_drawn_as_a_break():
    first, second = drawn([0.5, None])
    assert first == 0.5
    assert math.isnan(second)


@pytest.mark.parametrize(
    ("value", "word"), [(0.0, "0.000"), (1.0, "1.000"), (0.00095, "0.001"), (0.00094, "0.00094"), (-0.0432, "-0.043")]
)
def test_a_small_error_is_not_spelled_as_none(value, word):
    assert spelled(value) == word
