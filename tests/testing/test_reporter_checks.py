import pytest
import torch
from helpers.bad_monitors import Good, Plain, assert_found_out, mutants_of

from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.sinks.readings import Alert, Text
from logitwatch.testing.reporter_checks import (
    REPORTER_CHECKS,
    every_tag_has_a_unit_or_a_meaning,
    readings_carry_the_step_and_the_tags_they_are_given,
    tags_are_distinct,
)


@pytest.mark.parametrize("mutant", mutants_of(REPORTER_CHECKS), ids=lambda mutant: mutant.kind.__name__)
def test_a_bad_reporter_is_found_out(mutant):
    assert_found_out(mutant)


@pytest.mark.parametrize("check", REPORTER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("factory", [LogitMonitor, CalibrationMonitor, Good, Plain], ids=lambda kind: kind.__name__)
def test_a_good_one_passes_and_another_callback_is_not_asked(check, factory):
    check(factory)


class Silent(Good):
    def summary(self, observation, sample, terms, *, histograms):
        return None


@pytest.mark.parametrize("check", REPORTER_CHECKS, ids=lambda check: check.__name__)
def test_one_that_has_nothing_to_say_passes(check):
    check(Silent)


class Warns(Good):
    def readings(self, state, tags, step):
        alert = Alert(rule="saturation", step=step, level="info", title="", text="")
        return [*super().readings(state, tags, step), alert, Text(tag=self.tag(tags), step=step, markdown="")]

    def tag(self, tags):
        return tags("logits", "histogram")


def test_an_alert_has_a_rule_for_a_tag():
    for check in REPORTER_CHECKS:
        check(Warns)


def test_texts_have_tags_as_scalars_have():
    class Same(Warns):
        def tag(self, tags):
            return tags("logits", "max")

    class Untagged(Warns):
        def tag(self, tags):
            return "logits/val/histogram"

    class Undescribed(Warns):
        def tag(self, tags):
            return tags("mine", "text")

    with pytest.raises(AssertionError, match="said twice: logits/val/max"):
        tags_are_distinct(Same)
    with pytest.raises(AssertionError, match="expected family/train/<quantity>, got logits/val/histogram"):
        readings_carry_the_step_and_the_tags_they_are_given(Untagged)
    with pytest.raises(AssertionError, match="nowhere described: mine/val/text"):
        every_tag_has_a_unit_or_a_meaning(Undescribed)


def test_the_checks_draw_nothing():
    before = torch.get_rng_state()
    for check in REPORTER_CHECKS:
        check(LogitMonitor)
    assert torch.equal(torch.get_rng_state(), before)
