"""How a check says what went wrong, and what is not to be heard meanwhile."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from logitwatch.callbacks.monitor import Monitor

__all__ = ["no_fault", "quiet", "reason", "told"]


def reason(error: BaseException) -> str:
    """What an exception says; where it is none of a check, its type and where it was raised, too."""
    if isinstance(error, AssertionError) and str(error):
        return str(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}: {error}{where}"


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Say of an exception what it happened with."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{what}: {reason(error)}") from error


@contextlib.contextmanager
def no_fault(monitor: Any) -> Iterator[None]:
    """Fail where a monitor of logitwatch isolated an exception, and say which was the first."""
    kept: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                kept.append(reason(record.exc_info[1]))

    logger, handler = logging.getLogger("logitwatch"), Keep()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    faults = monitor.faults if isinstance(monitor, Monitor) else 0
    assert faults == 0, f"{faults} faults were isolated; the first: {next(iter(kept), 'not told')}"


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """What is logged under these names is not shown, and nothing is warned of."""
    before = [(logger := logging.getLogger(name), logger.handlers, logger.propagate) for name in names]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger, _, _ in before:
                logger.handlers, logger.propagate = [logging.NullHandler()], False
            yield
        finally:
            for logger, handlers, propagate in before:
                logger.handlers, logger.propagate = handlers, propagate
