"""What any callback of Lightning that only watches must bear: each check takes a factory and raises AssertionError."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from logitwatch.callbacks.monitor import Monitor
from logitwatch.testing._lightning import namespaces_of
from logitwatch.testing._telling import no_fault, told
from logitwatch.testing.chaos import ChaosCallback
from logitwatch.testing.harmless import assert_harmless
from logitwatch.testing.specimen import STEPS, Factory, loader, module, odd_batches, odd_step, train, trainer

__all__ = [
    "CALLBACK_CHECKS",
    "a_watched_run_is_the_same_run",
    "an_ordinary_run_has_no_fault",
    "it_goes_through_validate_fit_test_and_predict",
    "it_is_copied_and_pickled_before_and_after_a_fit",
    "it_may_be_used_again",
    "it_trains_under_every_lightning_it_is_a_callback_of",
    "its_faults_leave_the_same_run_and_are_all_counted",
    "odd_batches_neither_end_the_run_nor_change_it",
    "options_are_keywords_with_plain_defaults",
]

CHAOS_SEEDS = (0, 1, 2)
SHORT = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "num_sanity_val_steps": 0}


def options_are_keywords_with_plain_defaults(factory: Factory) -> None:
    """A configuration file must be able to say them all."""
    for name, option in inspect.signature(type(factory())).parameters.items():
        assert option.kind is option.KEYWORD_ONLY, f"{name} is not keyword-only"
        if option.default is not option.empty:
            try:
                json.dumps(option.default)
            except TypeError:
                raise AssertionError(f"the default of {name} is no plain value: {option.default!r}") from None


def it_trains_under_every_lightning_it_is_a_callback_of(factory: Factory) -> None:
    """Installed may be one namespace or both."""
    for lightning in namespaces_of(factory()):
        assert train([factory()], lightning=lightning).global_step == STEPS, f"{lightning.__name__}: it ended the run"


def it_is_copied_and_pickled_before_and_after_a_fit(factory: Factory) -> None:
    """Tuners copy callbacks, and strategies that spawn processes pickle them."""
    ways: dict[str, Callable[[Any], Any]] = {"a deep copy": copy.deepcopy, "a pickle": _pickled}
    used = factory()
    fit = partial(train, lightning=namespaces_of(used)[0])
    fit([used])
    for when, monitor in (("before", factory()), ("after", used)):
        for what, copied in ways.items():
            with told(f"{what} {when} a fit"):
                again = copied(monitor)
                assert type(again) is type(monitor), f"is a {type(again).__name__}"
                fit([again])


def a_watched_run_is_the_same_run(factory: Factory) -> None:
    """With dropout, shuffling, validation, and metrics of the user's own."""
    _same_run(factory())


def an_ordinary_run_has_no_fault(factory: Factory) -> None:
    """Nothing is isolated and counted. Of monitors of logitwatch."""
    monitor = factory()
    if isinstance(monitor, Monitor):
        for stage, run in _stages(monitor):
            with told(stage), no_fault(monitor):
                run()


def its_faults_leave_the_same_run_and_are_all_counted(factory: Factory) -> None:
    """Under a `ChaosCallback`. Of monitors of logitwatch."""
    if not isinstance(factory(), Monitor):
        return
    for seed in CHAOS_SEEDS:
        with told(f"chaos with seed {seed}"), tempfile.TemporaryDirectory() as folder:
            chaos, monitor = ChaosCallback(seed, p=0.2), factory()
            logger = namespaces_of(monitor)[0].loggers.CSVLogger(folder)

            def run_with(chaos: Any = chaos, monitor: Any = monitor, logger: Any = logger) -> Any:
                with chaos:
                    return train([monitor], lightning=namespaces_of(monitor)[0], logger=logger)

            assert_harmless(run_with, lambda: train([]))
            assert monitor.faults == chaos.total, f"{monitor.faults} faults counted, {chaos.total} injected"


def it_may_be_used_again(factory: Factory) -> None:
    """One that was in a fit, in another one."""
    monitor = factory()
    train([monitor], lightning=namespaces_of(monitor)[0])
    _same_run(monitor)


def it_goes_through_validate_fit_test_and_predict(factory: Factory) -> None:
    """One Trainer, one module; evaluation outside a fit is in inference mode."""
    for stage, run in _stages(factory()):
        with told(stage):
            assert run().global_step == (0 if stage == "validate" else STEPS), "it ended the run"


def odd_batches_neither_end_the_run_nor_change_it(factory: Factory) -> None:
    """See `odd_batches`. Nor are they faults."""
    for kind in odd_batches():
        with told(kind):
            monitor = factory()
            with no_fault(monitor):
                _same_run(monitor, step=odd_step(kind), **SHORT)


def _pickled(monitor: Any) -> Any:
    return pickle.loads(pickle.dumps(monitor))


def _stages(monitor: Any) -> list[tuple[str, Callable[[], Any]]]:
    """Every stage by name, as functions that give the one Trainer they share."""
    lightning = namespaces_of(monitor)[0]
    used, subject = trainer([monitor], lightning=lightning), module(lightning)

    def run(method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        method(subject, *args, **options)
        return used

    return [
        ("validate", partial(run, used.validate, loader(), verbose=False)),
        ("fit", partial(run, used.fit, loader(), loader())),
        ("test", partial(run, used.test, loader(), verbose=False)),
        ("predict", partial(run, used.predict, loader())),
    ]


def _same_run(monitor: Any, **options: Any) -> None:
    lightning = namespaces_of(monitor)[0]
    assert_harmless(
        lambda: train([monitor], lightning=lightning, **options), lambda: train([], lightning=lightning, **options)
    )


CALLBACK_CHECKS = (
    options_are_keywords_with_plain_defaults,
    it_trains_under_every_lightning_it_is_a_callback_of,
    it_is_copied_and_pickled_before_and_after_a_fit,
    a_watched_run_is_the_same_run,
    an_ordinary_run_has_no_fault,
    its_faults_leave_the_same_run_and_are_all_counted,
    it_may_be_used_again,
    it_goes_through_validate_fit_test_and_predict,
    odd_batches_neither_end_the_run_nor_change_it,
)
