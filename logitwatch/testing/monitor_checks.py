"""One call that tries a monitor, anyone's, on everything a monitor must bear."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from logitwatch.callbacks.generators import kept_random
from logitwatch.testing._telling import quiet, reason
from logitwatch.testing.callback_checks import CALLBACK_CHECKS
from logitwatch.testing.module_checks import MODULE_CHECKS
from logitwatch.testing.reporter_checks import REPORTER_CHECKS
from logitwatch.testing.specimen import Factory
from logitwatch.testing.state_checks import STATE_CHECKS

__all__ = ["check_monitor", "monitor_checks"]

MOST_LINES = 5
LOGGERS = ("logitwatch", "lightning.fabric", "lightning.pytorch", "lightning_fabric", "pytorch_lightning")


def check_monitor(factory: Factory) -> None:
    """Run every check on what a factory makes.

    Any callback of Lightning that only watches may be checked: that it never ends, changes or outlives a run, that it
    can be copied, saved, resumed and used again. A monitor of logitwatch is also run with faults injected everywhere,
    and what a `Reporter` says is held against its contract. Toy runs on the CPU, a few seconds in all, of which nothing
    stays behind; the random numbers of the caller are put back.

    Args:
        factory: Makes a fresh callback each time: its class, or a function without arguments.

    Raises:
        AssertionError: If a check fails; lists each that does, with the reason.

    Examples:
        >>> from logitwatch.callbacks.logit_monitor import LogitMonitor
        >>> check_monitor(LogitMonitor)
    """
    checks = monitor_checks()
    failed: dict[str, Exception] = {}
    for name, check in checks.items():
        try:
            check(factory)
        except Exception as error:
            failed[name] = error
    if failed:
        lines = [f"  {name}: {_abridged(reason(error))}" for name, error in failed.items()]
        whose = getattr(factory, "__name__", repr(factory))
        text = f"{whose} fails {len(failed)} of {len(checks)} checks:\n" + "\n".join(lines)
        raise AssertionError(text) from next(iter(failed.values()))


def monitor_checks() -> dict[str, Callable[[Factory], None]]:
    """The checks by name, each a function of a factory: for ``pytest.mark.parametrize``.

    Examples:
        >>> from logitwatch.callbacks.logit_monitor import LogitMonitor
        >>> class Eager(LogitMonitor):
        ...     def __init__(self, every=10):
        ...         super().__init__(every_n_steps=every)
        >>> monitor_checks()["options are keywords with plain defaults"](Eager)
        Traceback (most recent call last):
            ...
        AssertionError: every is not keyword-only
    """
    checks = (*CALLBACK_CHECKS, *STATE_CHECKS, *MODULE_CHECKS, *REPORTER_CHECKS)
    return {check.__name__.replace("_", " "): partial(_undisturbed, check) for check in checks}


def _abridged(text: str) -> str:
    """The first lines of what may be long."""
    first, *rest = text.splitlines() or [""]
    more = [f"... and {len(rest) - MOST_LINES} more"] if len(rest) > MOST_LINES else []
    return "\n      ".join([first, *rest[:MOST_LINES], *more])


def _undisturbed(check: Callable[[Factory], Any], factory: Factory) -> None:
    with kept_random(), quiet(*LOGGERS):
        check(factory)
