import json

import pytest

from logitwatch.callbacks.scale_history import Scale, ScaleHistory


def course(history, *points, stage="train", start=0):
    """Alerts of reports that are ``(accuracy, head, features, alignment)``."""
    scales = (Scale(stage, step, *point) for step, point in enumerate(points, start))
    return [alert for scale in scales for alert in history.reported(scale)]


@pytest.mark.parametrize(
    ("factors", "what", "remedy"),
    [
        ((4.0, 1.2, 0.5), "the norm of the head", "weight decay on the head"),
        ((1.2, 4.0, 0.5), "the norm of the features", "batch or layer norm"),
        ((1.0, 0.9, 0.9 * 4 / 1.5), "the alignment of features and head", "smooth the labels"),
    ],
)
def test_the_factor_that_grew_most_is_named_with_its_remedy(factors, what, remedy):
    (alert,) = course(ScaleHistory(), (0.9, 1.0, 1.0, 0.9 * 0.5), (0.9, *factors))
    assert alert.title.endswith(what)
    assert remedy in alert.text
    assert (alert.rule, alert.level, alert.step) == ("logit_growth", "warning", 1)


def test_the_shares_of_the_growth_add_up():
    (alert,) = course(ScaleHistory(), (0.9, 1.0, 1.0, 0.5), (0.9, 2.0, 2.0, 0.5))
    assert "the norm of the head 50%, the norm of the features 50%, the alignment of features and head 0%" in alert.text


def test_logits_that_grow_while_accuracy_rises_are_no_alarm():
    assert course(ScaleHistory(), *((0.1 * i, 2.0**i, 1.0, 1.0) for i in range(1, 9))) == []


def test_it_is_said_again_after_the_next_doubling():
    alerts = course(ScaleHistory(), *((0.9, 1.1**i, 1.0, 1.0) for i in range(20)))
    assert [alert.step for alert in alerts] == [8, 16]


def test_an_accuracy_that_fell_and_comes_back_has_not_risen():
    alerts = course(ScaleHistory(), (0.9, 1.0, 1.0, 1.0), (0.5, 1.0, 1.0, 1.0), (0.8, 2.0, 1.0, 1.0))
    assert len(alerts) == 1


def test_training_and_validation_are_courses_of_their_own():
    history = ScaleHistory()
    assert course(history, (0.9, 1.0, 1.0, 1.0)) == []
    assert course(history, (0.8, 3.0, 1.0, 1.0), stage="val") == []
    assert len(course(history, (0.9, 3.0, 1.0, 1.0))) == 1


@pytest.mark.parametrize("point", [(float("nan"), 9.0, 1.0, 1.0), (0.9, 0.0, 1.0, float("nan"))])
def test_without_an_accuracy_or_a_scale_nothing_is_said(point):
    assert course(ScaleHistory(), point, (0.9, 1.0, 1.0, 1.0)) == []


def test_it_goes_on_as_saved_and_what_it_saves_does_not_grow():
    one, other = ScaleHistory(), ScaleHistory()
    empty = one.state_dict()
    course(one, (0.9, 1.0, 1.0, 1.0), (0.8, 1.5, 1.0, 1.0))
    saved = one.state_dict()
    assert {stage: len(scale) for stage, scale in empty["since"].items()} == {"train": 6, "val": 6}
    assert {stage: len(scale) for stage, scale in saved["since"].items()} == {"train": 6, "val": 6}
    other.load_state_dict(json.loads(json.dumps(saved)))
    assert [alert.step for alert in course(other, (0.9, 2.0, 1.0, 1.0), start=2)] == [2]
