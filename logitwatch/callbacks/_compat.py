"""What differs between the Lightning namespaces and versions, and what Lightning keeps private: only here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from logitwatch.sinks.readings import Reading, Scalars

# Lightning skips a hook that is not callable; one that is there and does nothing costs 1 to 2 microseconds a step for
# each callback, and there are six in a training step. The monitors see batches through the tap.
UNUSED_HOOKS = (
    *(f"on_{stage}_batch_{end}" for stage in ("train", "validation", "test", "predict") for end in ("start", "end")),
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)

if TYPE_CHECKING:
    from pytorch_lightning import Callback as LightningCallback
else:
    # One class that is a Callback of every installed namespace: a Trainer or a LightningCLI of either takes it.
    # Neither base keeps state, so their order says nothing.
    _NAMES = [n for n in ("lightning.pytorch", "pytorch_lightning") if importlib.util.find_spec(n.partition(".")[0])]
    LightningCallback = type(
        "LightningCallback",
        tuple(dict.fromkeys(importlib.import_module(name).Callback for name in _NAMES)),
        {"__doc__": "A Callback of every installed Lightning namespace.", **dict.fromkeys(UNUSED_HOOKS)},
    )

__all__ = ["LightningCallback", "log_scalars"]


def log_scalars(module: Any, readings: Sequence[Reading], *, batch_size: int) -> None:
    """Put the scalars of an epoch where EarlyStopping and ModelCheckpoint look, and nowhere else: sinks have them too.

    The values are equal on every rank, since the states behind them were reduced, so nothing is synchronised. A tag
    carries its data loader already, and Lightning refuses such a name unless it is told not to add one.
    """
    how = {"on_step": False, "on_epoch": True, "logger": False, "sync_dist": False, "add_dataloader_idx": False}
    for reading in readings:
        for tag, value in reading.values.items() if isinstance(reading, Scalars) else ():
            module.log(tag, value, **how, batch_size=max(1, batch_size))
