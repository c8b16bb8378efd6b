import pytest
from helpers.bad_monitors import Plain, SavesNumpy, assert_found_out, mutants_of

from logitwatch.testing.monitor_checks import monitor_checks
from logitwatch.testing.state_checks import (
    STATE_CHECKS,
    its_state_does_not_grow,
    its_state_is_plain_and_loads_safely,
)


@pytest.mark.parametrize("mutant", mutants_of(STATE_CHECKS), ids=lambda mutant: mutant.kind.__name__)
def test_a_bad_state_is_found_out(mutant):
    assert_found_out(mutant)


def test_a_state_the_suite_keeps_from_the_checkpoint_is_told_of():
    with pytest.raises(AssertionError, match="faults were isolated; the first: TypeError: state_dict must be"):
        its_state_is_plain_and_loads_safely(SavesNumpy)


def test_a_state_that_is_no_dictionary_is_told_of():
    class Nothing(Plain):
        def state_dict(self):
            return None

    class Several(Plain):
        def state_dict(self):
            return {"fine": [1], "set": {1}, "type": int}

    its_state_is_plain_and_loads_safely(Plain)
    with pytest.raises(AssertionError, match="'set' is a set, 'type' is a type"):
        its_state_is_plain_and_loads_safely(Several)


def test_a_state_may_hold_larger_numbers_and_be_smaller_at_times():
    class Counts(Plain):
        def __init__(self):
            super().__init__()
            self.steps = 0

        def on_train_batch_end(self, *args):
            self.steps += 1

        def state_dict(self):
            return {"steps": 10 ** (self.steps // 4), "window": [0.0] * (self.steps % 7)}

    its_state_does_not_grow(Counts)


def test_a_run_that_ends_at_once_when_resumed_is_found_out():
    class Stops(Plain):
        def state_dict(self):
            return {"stop": True}

        def load_state_dict(self, state_dict):
            self.stop = state_dict["stop"]

        def on_train_batch_start(self, trainer, *args):
            trainer.should_stop = getattr(self, "stop", False)

    with pytest.raises(AssertionError, match="ended after 4 steps of 8"):
        monitor_checks()["a run resumes from its checkpoint"](Stops)  # and says nothing of Lightning's advice
