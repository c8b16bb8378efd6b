import json
import math

import pytest

from logitwatch.callbacks.calibration_history import CalibrationHistory, Validation
from logitwatch.states.calibration_evidence import alarm_threshold


def seen(step, nll=0.5, accuracy=0.9, confidence=None, log_e=0.0, **changed):
    options = {"where": "val", "rows": 1000, "refinement": 0.4, "temperature": 1.6, **changed}
    confidence = accuracy if confidence is None else confidence
    return Validation(step=step, nll=nll, accuracy=accuracy, confidence=confidence, log_e=log_e, **options)


def raised(history, course):
    return [(alert.rule, alert.step) for validation in course for alert in history.validated(validation)]


def overfitted(nlls, accuracies):
    course = [seen(step, nll, accuracy) for step, (nll, accuracy) in enumerate(zip(nlls, accuracies, strict=True))]
    return raised(CalibrationHistory(), course)


def test_a_rising_nll_while_the_error_falls_is_said_once_where_it_is_sure():
    assert overfitted([0.5, 0.4, 0.45, 0.5, 0.6, 0.7], [0.8, 0.85, 0.86, 0.87, 0.87, 0.88]) == [
        ("calibration_overfitting", 3)
    ]


@pytest.mark.parametrize(
    ("nlls", "accuracies"),
    [
        ([0.5, 0.4, 0.45, 0.5], [0.8, 0.85, 0.84, 0.83]),  # the error rises too: overfitting of the plain kind
        ([0.5, 0.4, 0.405, 0.407, 0.404], [0.8, 0.85, 0.86, 0.86, 0.86]),  # within 2 %
        ([0.5, 0.4, 0.45, 0.39, 0.45, 0.38], [0.8, 0.85, 0.86, 0.86, 0.87, 0.87]),  # never twice in a row
        ([0.5], [0.8]),
    ],
)
def test_no_alarm_without_a_steady_rise_beside_a_falling_error(nlls, accuracies):
    assert overfitted(nlls, accuracies) == []


def test_a_new_rise_after_a_new_best_is_said_again():
    nlls = [0.4, 0.5, 0.5, 0.3, 0.4, 0.4]
    assert overfitted(nlls, [0.8] * 6) == [("calibration_overfitting", 2), ("calibration_overfitting", 5)]


def test_the_alert_says_since_when_and_what_would_help():
    history = CalibrationHistory()
    course = [seen(10, 0.40, 0.90), seen(20, 0.45, 0.91), seen(30, 0.50, 0.92)]
    (alert,) = [alert for validation in course for alert in history.validated(validation)]
    assert "Since step 10 the NLL on val rose from 0.4 to 0.5 nats" in alert.text
    assert "10.00% to 8.00%" in alert.text
    assert "Dividing the logits by 1.6 would lower the NLL by 0.1 to 0.4 nats" in alert.text
    assert "logitwatch.Recalibrator()" in alert.text
    assert "or label smoothing or a `ConfidencePenalty`" in alert.text


def test_of_an_under_confident_net_less_smoothing_is_advised():
    (alert,) = CalibrationHistory().validated(seen(1, confidence=0.8, log_e=99.0, temperature=0.5))
    assert "take label smoothing and penalties of the loss down" in alert.text


def test_without_a_best_temperature_none_is_advised():
    history = CalibrationHistory()
    (alert,) = history.validated(seen(1, confidence=0.99, log_e=99.0, temperature=math.nan, refinement=0.5))
    assert "No temperature helps here." in alert.text


@pytest.mark.parametrize("look", [1, 2, 7])
def test_each_look_spends_its_share_of_alpha(look):
    threshold = math.log(alarm_threshold(look, alpha=0.05))
    for excess, expected in ((-1e-9, []), (1e-9, [("miscalibration", look)])):
        quiet = [seen(step, confidence=0.95) for step in range(1, look)]
        course = [*quiet, seen(look, confidence=0.95, log_e=threshold + excess)]
        assert raised(CalibrationHistory(alpha=0.05), course) == expected


def test_a_gap_too_small_to_matter_is_no_alarm_however_sure():
    assert raised(CalibrationHistory(least_gap=0.02), [seen(1, confidence=0.915, log_e=1e3)]) == []


def test_an_alarm_that_goes_on_is_said_once_and_again_after_a_recovery():
    wrong, right = {"confidence": 0.95, "log_e": 100.0}, {"log_e": 0.0}
    course = [seen(step, **options) for step, options in enumerate([wrong, wrong, right, wrong])]
    assert raised(CalibrationHistory(), course) == [("miscalibration", 0), ("miscalibration", 3)]


@pytest.mark.parametrize(
    ("confidence", "words"),
    [
        (0.95, ("Over-confident by 5.0%", "5.0% above the accuracy of 90.0%")),
        (0.8, ("Under-confident by 10.0%", "below")),
    ],
)
def test_the_alarm_says_which_way_and_how_far(confidence, words):
    (alert,) = CalibrationHistory().validated(seen(1, confidence=confidence, log_e=100.0))
    assert words[0] == alert.title
    assert words[1] in alert.text


def test_data_loaders_have_a_course_of_their_own():
    history = CalibrationHistory()
    courses = [seen(step, nll, where=where) for step, nll in enumerate([0.4, 0.5, 0.6]) for where in ("val", "val/1")]
    assert raised(history, courses) == [("calibration_overfitting", 2)] * 2


def test_the_gap_of_training_is_of_the_rows_since_the_validation_before():
    history = CalibrationHistory()
    assert math.isnan(history.train_gap)
    history.trained(0, math.nan)
    history.trained(100, 0.10)
    history.trained(300, 0.02)
    assert history.train_gap == pytest.approx(0.04)
    history.validated(seen(1))
    assert history.train_gap == pytest.approx(0.04)  # a second data loader reads the same
    history.trained(10, -0.5)
    assert history.train_gap == pytest.approx(-0.5)


def test_what_is_saved_is_plain_and_goes_on():
    course = [seen(0, 0.4), seen(1, 0.5), seen(2, 0.6, confidence=0.95, log_e=100.0), seen(3, 0.7)]
    whole = CalibrationHistory()
    expected = raised(whole, course)
    for cut in range(len(course)):
        first, second = CalibrationHistory(), CalibrationHistory()
        said = raised(first, course[:cut])
        first.trained(10, 0.5)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert second.train_gap == 0.5
        assert said + raised(second, course[cut:]) == expected
