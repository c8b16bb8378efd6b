import math

import pytest
import torch

from logitwatch.functional.linear_head import LinearRows
from logitwatch.states.head_scale import HeadScale


def rows(head=2.0, features=(3.0, 5.0), logits=(1.0, 3.0), mismatch=0.0):
    return LinearRows(torch.tensor(head), torch.tensor(features), torch.tensor(logits), torch.tensor(mismatch))


def factors(state):
    return {name: value.item() for name, value in state.factors().items()}


def test_the_scale_is_the_product_of_the_three_after_any_merge():
    state = HeadScale.of(rows()).merge(HeadScale.of(rows(4.0, (7.0,), (9.0,))))
    said = factors(state)
    assert said["logit_scale"] == pytest.approx(13 / 3)
    assert said["head_norm"] == pytest.approx(8 / 3)
    assert said["feature_norm"] == pytest.approx(5.0)
    assert said["logit_scale"] == pytest.approx(said["head_norm"] * said["feature_norm"] * said["alignment"], rel=1e-12)
    assert state.count.item() == 3


def test_the_worst_mismatch_is_kept():
    merged = HeadScale.of(rows(mismatch=0.25)).merge(HeadScale.of(rows(mismatch=0.125)))
    assert merged.mismatch.item() == 0.25


def test_a_row_that_is_not_finite_is_left_out():
    said = HeadScale.of(rows(features=(3.0, math.nan), logits=(1.0, 3.0)))
    assert said.count.item() == 1
    assert factors(said)["logit_scale"] == 1.0


def test_of_nothing_there_is_no_number():
    assert all(math.isnan(value) for value in factors(HeadScale.empty()).values())
