import math

import pytest
from helpers.windows import BFLOAT16, FLOAT16, look, window

from logitwatch.callbacks.stability_history import StabilityHistory

BAD = {"nonfinite": 2, "first_nonfinite": 7}
TIED = {"near_tied": 500, **BFLOAT16}


def rules(history, **values):
    return [alert.rule for alert in history.reported(window(**values), steps=10)]


def test_trouble_is_told_once_until_it_has_been_quiet_for_three_reports():
    history = StabilityHistory()
    told = [rules(history, **(BAD if bad else {})) for bad in (1, 1, 0, 0, 1, 0, 0, 0, 1, 1)]
    assert [bool(alerts) for alerts in told] == [1, 0, 0, 0, 0, 0, 0, 0, 1, 0]


def test_what_may_be_chance_has_to_hold_twice_in_a_row():
    history = StabilityHistory()
    told = [rules(history, **(TIED if tied else {})) for tied in (1, 0, 1, 1)]
    assert told == [[], [], [], ["precision"]]


def test_what_has_held_from_the_first_report_is_told_late():
    one_class = {"predicted": [1000, *[0] * 9]}
    unlearned, learned = StabilityHistory(), StabilityHistory()
    assert [rules(unlearned, **one_class) for _ in range(10)] == [[]] * 9 + [["dominating_class"]]
    assert [rules(learned, **values) for values in ({}, one_class, one_class)] == [[], [], ["dominating_class"]]


def test_stages_and_data_loaders_have_episodes_of_their_own():
    history = StabilityHistory()
    places = [{"stage": "train"}, {"stage": "val"}, {"stage": "val", "loader": 1}]
    assert [rules(history, **BAD, **place) for place in places] == [["nonfinite"]] * 3
    assert [rules(history, **BAD, **place) for place in places] == [[]] * 3


def test_overconfidence_is_told_in_evaluation_where_it_has_risen_from_its_least():
    history = StabilityHistory()

    def after(*gaps, stage="val"):
        return [rules(history, stage=stage, mean={"overconfidence": gap}) for gap in gaps]

    assert after(0.3, 0.2, 0.29) == [[], [], []]  # it was so from the beginning
    assert after(0.31, 0.25, 0.31, 0.31) == [[], [], [], ["overconfidence"]]
    assert after(0.05, 0.14, 0.14, math.nan) == [[]] * 4  # not by a tenth
    assert after(1.0, 1.0, 1.0, stage="train") == [[]] * 3


def growing(history, *, reports=20, factor=1.1, **values):
    told = []
    for report in range(reports):
        told += history.reported(window(step=50 * report, absmax=220 * factor**report, **values), steps=50)
    return told


def test_an_overflow_is_foretold():
    told = growing(StabilityHistory(), **FLOAT16)
    (alert,) = [alert for alert in told if alert.rule == "overflow_ahead"]
    # The first report above a 64th of the range, 1023.5, is number 17; ten are needed.
    assert alert.step == 50 * 17
    assert alert.values["absmax"] == pytest.approx(220 * 1.1**17)
    assert alert.values["steps"] == pytest.approx(50 * math.log(65504 / alert.values["absmax"], 1.1))
    assert f"about {alert.values['steps']:,.0f} steps" in alert.title


@pytest.mark.parametrize(
    "values", [{**BFLOAT16}, {}, {"factor": 1.0, **FLOAT16}, {"factor": 1.0002, **FLOAT16}], ids=str
)
def test_no_overflow_is_foretold_where_the_range_is_wide_or_the_end_far(values):
    told = growing(StabilityHistory(), **values)
    assert "overflow_ahead" not in {alert.rule for alert in told}


def test_it_goes_on_where_it_was_saved_amid_an_episode():
    one = StabilityHistory()
    rules(one, **BAD)
    rules(one, **TIED)
    growing(one, reports=9, **FLOAT16)
    rules(one, stage="val", mean={"overconfidence": 0.1})
    other = StabilityHistory()
    other.load_state_dict(one.state_dict())
    assert other.state_dict() == one.state_dict()
    for values in (TIED, BAD, {"looks": [look(nll=9.0)] * 9}, {"stage": "val", "mean": {"overconfidence": 0.4}}):
        assert rules(other, **values) == rules(one, **values)
    assert other.state_dict() == one.state_dict()
