"""Which sinks a run has: found from its loggers by the experiment object behind each, so either Lightning will do."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

from logitwatch.sinks.jsonl import JsonlSink
from logitwatch.sinks.lightning import LightningSink
from logitwatch.sinks.protocol import Sink

__all__ = ["ENTRY_POINTS", "log_folder", "open_sinks"]

ENTRY_POINTS = "logitwatch.sinks"
"""Group under which a package may register ``factory(logger) -> Sink | None``; it is asked before the sinks here."""

_logger = logging.getLogger("logitwatch")


def open_sinks(loggers: Sequence[Any], folder: str | None) -> list[Sink]:
    """One sink for each logger that keeps anything, and the JSON lines of the run.

    Call it on rank 0, when the loggers have made their experiments. No backend is imported here that was not imported
    before; an experiment that cannot be made, or a registered factory that fails, costs a warning and no more.

    Args:
        loggers: ``trainer.loggers``, of either namespace; dummies (``fast_dev_run``) are passed over.
        folder: Where ``logitwatch.jsonl`` goes; None for nowhere.

    Examples:
        >>> class PlainLogger:
        ...     experiment = object()
        >>> [type(sink).__name__ for sink in open_sinks([PlainLogger()], "logs")]
        ['LightningSink', 'JsonlSink']
        >>> open_sinks([], None)
        []
    """
    factories = _registered()
    found = [_sink_of(logger, factories) for logger in loggers]
    sinks = [sink for sink in found if sink is not None]
    if folder is not None:
        sinks.append(JsonlSink(os.path.join(folder, "logitwatch.jsonl")))
    return sinks


def log_folder(loggers: Sequence[Any]) -> str | None:
    """The folder of this run on this machine, the one ModelCheckpoint puts its ``checkpoints`` in.

    Returns:
        ``save_dir/name/version`` of the first logger; None without a logger, for one that keeps nothing locally, and
        for a folder behind a URL.

    Examples:
        >>> class FileLogger:
        ...     save_dir, name, version = "logs", "digits", 3
        >>> log_folder([FileLogger()]), log_folder([])
        ('logs/digits/version_3', None)
    """
    if not loggers:
        return None
    first = loggers[0]
    save_dir = getattr(first, "save_dir", None)
    if _is_dummy(first) or not isinstance(save_dir, (str, os.PathLike)) or "://" in os.fspath(save_dir):
        return None
    version = first.version if isinstance(first.version, str) else f"version_{first.version}"
    return os.path.join(os.fspath(save_dir), str(first.name), version)


def _registered() -> list[Callable[[Any], Sink | None]]:
    factories = []
    for point in entry_points(group=ENTRY_POINTS):
        try:
            factories.append(point.load())
        except Exception:
            _logger.warning("the sink %r of %s could not be loaded", point.name, point.value, exc_info=True)
    return factories


def _sink_of(logger: Any, factories: Sequence[Callable[[Any], Sink | None]]) -> Sink | None:
    for factory in factories:
        try:
            sink = factory(logger)
        except Exception:
            _logger.warning("a registered sink failed for %s", type(logger).__name__, exc_info=True)
            continue
        if sink is not None:
            return sink
    if _is_dummy(logger):
        return None
    try:
        experiment = logger.experiment
    except Exception:
        _logger.warning("%s has no experiment; it gets scalars", type(logger).__name__, exc_info=True)
        experiment = None
    if _is_dummy(experiment):
        return None
    return _native(logger, experiment) or LightningSink(logger)


def _native(logger: Any, experiment: Any) -> Sink | None:
    prefix = getattr(logger, "_prefix", "")
    prefix = f"{prefix}{getattr(logger, 'LOGGER_JOIN_CHAR', '-')}" if isinstance(prefix, str) and prefix else ""
    if _is_instance(experiment, "torch.utils.tensorboard.writer", "SummaryWriter"):
        from logitwatch.sinks.tensorboard import TensorBoardSink

        return TensorBoardSink(experiment, prefix=prefix)
    if _is_instance(experiment, "wandb.sdk.wandb_run", "Run"):
        from logitwatch.sinks.wandb import WandbSink

        return WandbSink(experiment, prefix=prefix)
    return None


def _is_instance(value: Any, module: str, name: str) -> bool:
    """Whether ``value`` is of a class whose module, if anyone has imported it, is in ``sys.modules``."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _is_dummy(value: Any) -> bool:
    return any(base.__name__ in ("DummyLogger", "DummyExperiment", "_DummyExperiment") for base in type(value).__mro__)
