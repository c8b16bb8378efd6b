import math

import pytest
import torch

from logitwatch.functional.attention import HeadStatistics, head_statistics
from logitwatch.states.attention_summary import MOST_HEADS, MOST_LAYERS, AttentionSummary


def heads(count: int, value: float, *, rows: int = 3) -> HeadStatistics:
    """Rows that look at one of two keys as much as at the other."""
    return head_statistics(torch.full((1, count, rows, 2), value))


def test_each_layer_and_head_has_its_place() -> None:
    summary = AttentionSummary.of({0: heads(2, 1.0), 3: heads(4, -5.0)})
    assert summary.rows[0, :3].tolist() == [3, 3, 0]
    assert summary.max_logit[3, 3].item() == 5.0
    assert summary.max_logit[1, 0].item() == -math.inf
    assert summary.mean_entropy()[0, 1].item() == pytest.approx(1.0, abs=1e-6)  # a softmax in float32
    assert math.isnan(summary.mean_entropy()[1, 0].item())
    assert int(summary.left_out) == 0


def test_what_has_no_place_is_counted() -> None:
    layers = {0: heads(MOST_HEADS + 2, 1.0), MOST_LAYERS - 1: heads(1, 1.0), MOST_LAYERS: heads(3, 1.0)}
    summary = AttentionSummary.of(layers, left_out=10, unread=4)
    assert int(summary.left_out) == 2 + 3 + 10
    assert int(summary.merge(summary).unread) == 8
    assert int(summary.rows.sum()) == 3 * (MOST_HEADS + 1)


def test_looks_at_the_same_heads_add_up() -> None:
    both = AttentionSummary.of({1: heads(2, 1.0)}).merge(AttentionSummary.of({1: heads(2, 7.0)}))
    assert both.rows[1, :2].tolist() == [6, 6]
    assert both.max_logit[1, :2].tolist() == [7.0, 7.0]


def test_a_look_that_heard_nothing_is_empty() -> None:
    assert int(AttentionSummary.of({}).rows.sum()) == 0
