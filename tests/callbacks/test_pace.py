import time

import torch

from logitwatch.callbacks.cadence import Cadence
from logitwatch.callbacks.pace import Pace


def pace(**options):
    made = Pace(lambda: torch.device("cpu"))
    made.cadence = Cadence(**options)
    return made


def test_a_step_is_due_once_however_many_micro_batches_it_has():
    assert [pace_.due(step) for pace_ in [pace(every_n_steps=2)] for step in (0, 0, 1, 1, 2, 2)] == [
        *(True, False, False, False, True, False)
    ]


def test_only_steps_nobody_disturbed_say_what_steps_cost():
    steps = []
    subject = pace()
    subject.cadence.timed_step = steps.append
    for step in range(8):  # looks at 0 1 2 4
        subject.due(step)
        if step == 6:
            subject.interrupted()
    # Timed are the steps that ran on to the next undisturbed: 3 to 4 and 5 to 6; 6 to 7 was interrupted.
    assert len(steps) == 2


def test_a_frozen_cadence_is_not_timed():
    subject = pace(every_n_steps=5)
    subject.now = None  # would fail if it were asked
    assert [subject.due(step) for step in range(6)] == [True, False, False, False, False, True]


def test_on_a_cpu_it_is_the_thread_that_is_timed():
    subject = pace()
    before = subject.now()
    time.sleep(0.05)
    assert subject.now() - before < 0.04
