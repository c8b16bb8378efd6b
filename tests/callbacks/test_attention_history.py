import json
import math

import pytest
import torch

from logitwatch.callbacks.attention_history import AttentionHistory
from logitwatch.callbacks.attention_report import AttentionReport


def report(largest, *, where="train", step=0, entropy=0.5):
    """Two layers of two heads, of which one has the largest logit; the second layer has one head."""
    sizes = torch.tensor([[1.0, 2.0], [largest, math.nan]])
    spread = torch.tensor(entropy) if isinstance(entropy, list) else 0 * sizes + entropy
    return AttentionReport(where, step, ["first", "second"], sizes, 3 * sizes, spread)


def course(history, *sizes, **options):
    """``(step, level)`` of the alerts of reports with these largest logits."""
    found = ((step, history.reported(report(size, step=step, **options))) for step, size in enumerate(sizes))
    return [(step, alert.level) for step, alerts in found for alert in alerts]


def test_each_level_of_growth_is_said_once_as_it_is_reached():
    sizes = (99.0, 101.0, 500.0, 1001.0, 2000.0, 10_001.0, 1e6)
    assert course(AttentionHistory(), *sizes) == [(1, "info"), (3, "warning"), (5, "critical")]


def test_a_jump_is_said_at_its_own_level_alone():
    assert course(AttentionHistory(), 2e4, 2e3, 2e4) == [(0, "critical")]


def test_a_wobble_about_the_threshold_is_one_episode_and_a_fall_ends_it():
    assert course(AttentionHistory(), 101, 99, 101, 81, 150, 79, 101) == [(0, "info"), (6, "info")]


def test_another_tau_moves_every_level():
    assert course(AttentionHistory(tau=10.0), 9, 11, 101, 1001) == [(1, "info"), (2, "warning"), (3, "critical")]


def test_stages_have_episodes_of_their_own():
    history = AttentionHistory()
    assert course(history, 200.0) == course(history, 200.0, where="val") == [(0, "info")]
    assert course(history, 200.0) == []


def test_the_head_is_named_with_the_factor_that_clips_it():
    sizes = torch.tensor([[400.0, 50.0], [900.0, math.nan]])
    (alert,) = AttentionHistory().reported(
        AttentionReport("val", 7, ["first", "second"], sizes, 2 * sizes, 0 * sizes + 1)
    )
    assert (alert.rule, alert.level, alert.step) == ("attention_logit_growth", "info", 7)
    assert alert.title == "An attention logit of 900, above 100: second, head 0"
    # The root of 100 / 900 on queries and on keys makes of 900 what 100 / 900 of it is; the head of 50 is none of them.
    assert "second head 0 by 0.333, first head 0 by 0.5." in alert.text
    assert "no row of that head has one above 1800" in alert.text
    assert alert.values == {"max_logit": 900.0, "bound": 1800.0}


def test_queries_and_keys_clipped_as_told_have_the_logit_that_is_no_matter():
    q, k = (30 * torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))).unbind()
    largest = (q @ k.T).abs().max().item()
    sizes = torch.tensor([[largest]])
    (alert,) = AttentionHistory().reported(AttentionReport("train", 0, ["net"], sizes, sizes, sizes.new_ones(1, 1)))
    factor = float(alert.text.split("net head 0 by ")[1].split(". ")[0])
    clipped = ((factor * q) @ (factor * k).T).abs().max().item()
    assert clipped == pytest.approx(100.0, rel=1e-2)  # the factor has three digits


def test_many_heads_are_counted_beyond_the_first_few():
    sizes = torch.full((5, 4), 200.0)
    (alert,) = AttentionHistory().reported(AttentionReport("train", 0, list("abcde"), sizes, sizes, 0 * sizes + 1))
    assert alert.text.count(" by 0.707") == 8
    assert "and 12 more." in alert.text


def test_collapse_of_a_quarter_of_the_heads_is_none_and_of_more_is_one():
    history = AttentionHistory()
    quarter, third = [[0.01, 0.9], [0.9, 0.9]], [[0.01, 0.9], [0.9, math.nan]]
    assert history.reported(report(1.0, entropy=quarter)) == []
    (alert,) = history.reported(report(1.0, entropy=third, step=3))
    assert (alert.rule, alert.level, alert.step) == ("attention_entropy_collapse", "warning", 3)
    assert alert.title == "33% of the attention heads look at one key"
    assert "first 1 of 2." in alert.text
    assert alert.values["share"] == pytest.approx(1 / 3)


def test_a_collapse_is_said_once_in_an_episode():
    history = AttentionHistory()
    some, few, none = [[0.01, 0.9], [0.9, math.nan]], [[0.01, 0.9], [0.9, 0.9]], [[0.9, 0.9], [0.9, 0.9]]
    entropies = [some, few, some, none, some]  # a quarter is no collapse, nor its end
    alerts = [history.reported(report(1.0, entropy=entropy, step=step)) for step, entropy in enumerate(entropies)]
    assert [step for step, found in enumerate(alerts) if found] == [0, 4]


def test_where_no_number_is_known_nothing_is_said_and_no_episode_ends():
    history = AttentionHistory()
    low = [[0.01, 0.01], [0.01, 0.01]]
    assert len(history.reported(report(200.0, entropy=low))) == 2
    nothing = torch.full((2, 2), math.nan)
    assert history.reported(AttentionReport("train", 1, ["first", "second"], nothing, nothing, nothing)) == []
    assert history.reported(report(200.0, entropy=low)) == []


def test_a_resumed_history_is_amid_the_same_episode():
    history, resumed = AttentionHistory(), AttentionHistory()
    history.reported(report(200.0, entropy=0.01))
    resumed.load_state_dict(json.loads(json.dumps(history.state_dict())))
    assert resumed.reported(report(200.0, entropy=0.01)) == []
    assert [alert.level for alert in resumed.reported(report(2000.0, entropy=0.01))] == ["warning"]
