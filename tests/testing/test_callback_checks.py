import pytest
from helpers.bad_monitors import Good, Plain, assert_found_out, mutants_of

from logitwatch.testing.callback_checks import (
    CALLBACK_CHECKS,
    it_goes_through_validate_fit_test_and_predict,
    it_trains_under_every_lightning_it_is_a_callback_of,
    its_faults_leave_the_same_run_and_are_all_counted,
    options_are_keywords_with_plain_defaults,
)


@pytest.mark.parametrize("mutant", mutants_of(CALLBACK_CHECKS), ids=lambda mutant: mutant.kind.__name__)
def test_a_bad_callback_is_found_out(mutant):
    assert_found_out(mutant)


def test_an_option_without_a_default_may_be_asked_for():
    class Asks(Plain):
        def __init__(self, *, path, rows=3):
            super().__init__()

    options_are_keywords_with_plain_defaults(lambda: Asks(path="here"))


def test_what_is_no_callback_is_said_to_be_none():
    with pytest.raises(AssertionError, match="object is no Callback of lightning"):
        it_trains_under_every_lightning_it_is_a_callback_of(object)


def test_a_callback_that_ends_the_run_is_found_out():
    class Stops(Plain):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = True

    with pytest.raises(AssertionError, match="fit: it ended the run"):
        it_goes_through_validate_fit_test_and_predict(Stops)


def test_a_monitor_that_lets_faults_out_is_not_harmless_under_them():
    with pytest.raises(AssertionError, match="chaos with seed 0: InjectedFault: fault 1 injected into"):
        its_faults_leave_the_same_run_and_are_all_counted(lambda: Good(on_fault="raise"))
