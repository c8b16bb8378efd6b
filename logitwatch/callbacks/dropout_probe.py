"""Asks a model the same thing several times with dropout on, after each validation, and logs how its answers differ."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from logitwatch.callbacks.generators import own_random
from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.reduction import rank, world_size
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.dropout import dropout_layers, dropping_out
from logitwatch.capture.observation import Observation
from logitwatch.capture.sharding import is_distributed
from logitwatch.sinks.readings import Reading, Scalars, Text
from logitwatch.sinks.state_readings import histogram_reading
from logitwatch.states.dropout_summary import DropoutSummary
from logitwatch.states.protocol import State

__all__ = ["DropoutProbe"]

logger = logging.getLogger("logitwatch")

# Logits kept at most, of all passes: 64 MiB in float32.
MOST_ELEMENTS = 2**24
REMEDY = "Name a method of the module that takes the batch and gives the logits: DropoutProbe(forward='its name')."


class DropoutProbe(Monitor):
    """Logs how the logits vary where dropout stays on, on the first batch of each validation.

    The module is called several times with its dropout layers, and nothing else, in training. The passes draw by a seed
    of their own, the same at each validation, so that two validations differ by the model alone as long as their first
    batches do not. Training flags, buffers and random numbers are put back, and what the module logs meanwhile is
    dropped. Each rank asks of its own rows.

    Logged, under ``dropout/val/``: ``predictive_entropy``, of the mean prediction, ``expected_entropy``, the mean of
    each pass, and ``mutual_information``, their difference, which is what the model does not know (nats);
    ``logit_variance``, over passes, and its ``histogram`` over rows (logit²); ``rows`` and ``nonfinite``. The text
    ``note`` says once why a module cannot be probed: no dropout layer, logits that are not found, weights spread over
    ranks.

    Args:
        passes: Calls of the module, two or more.
        rows: Examples of the batch that the module is called with, and rows of logits taken of them; fewer where the
            logits of all passes would exceed 64 MiB.
        every_n_validations: Validations from one probe to the next.
        forward: Name of a method of the module that takes the whole batch and gives the logits. By default the module
            is called with the batch, or with its first part where it is a list or tuple.
        dim: Class axis of the logits.
        source: See `LogitMonitor`; where it is a yes-or-no criterion, each logit is a decision of its own.
        on_fault: See `LogitMonitor`.

    Examples:
        >>> DropoutProbe(passes=1)
        Traceback (most recent call last):
            ...
        ValueError: passes must be >= 2, got 1
    """

    looks_at_training = False

    def __init__(
        self,
        *,
        passes: int = 16,
        rows: int = 256,
        every_n_validations: int = 1,
        forward: str | None = None,
        dim: int = -1,
        source: str | None = None,
        on_fault: str = "isolate",
    ) -> None:
        super().__init__(rows=rows, source=source, on_fault=on_fault)
        for name, value, least in (("passes", passes, 2), ("every_n_validations", every_n_validations, 1)):
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        self.passes, self.every_n_validations = passes, every_n_validations
        self.forward, self.dim = forward, dim
        self._validations, self._binary = 0, False
        self._note, self._told = "", False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See `Monitor.setup`."""
        self._validations, self._binary, self._note, self._told = 0, False, "", False
        if self.forward is not None and not callable(getattr(pl_module, self.forward, None)):
            raise ValueError(f"forward must be the name of a method of the module, got {self.forward!r}")
        super().setup(trainer, pl_module, stage)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Probe the first batch, where this validation is one to be probed."""
        if batch_idx or dataloader_idx or trainer.sanity_checking or self._session is None:
            return
        self._validations += 1
        if (self._validations - 1) % self.every_n_validations or self._note:
            return
        try:
            with trainer.precision_plugin.val_step_context():
                state = self._probed(trainer, pl_module, batch)
        except _UnsuitedError as reason:
            self._note = f"Dropout is not probed: {reason}"
            logger.warning("logitwatch: %s", self._note)
        else:
            self._session.windows.add(self, "val", 0, state)

    def empty(self, device: torch.device) -> DropoutSummary:
        """See `Monitor.empty`."""
        return DropoutSummary.empty(device=device)

    def summary(
        self, observation: Observation, sample: Observation, terms: Mapping[str, Tensor] | None, *, histograms: bool
    ) -> None:
        """See `Monitor.summary`; notes what kind of logits they are."""
        if observation.stage == "val":
            self._binary = observation.binary

    def readings(self, state: State, tags: Tags, step: int) -> list[Reading]:
        """See `Monitor.readings`."""
        summary = cast(DropoutSummary, state)
        numbers = {**summary.means(), "rows": summary.seen, "nonfinite": summary.nonfinite}
        values = {tags("dropout", name): float(value) for name, value in numbers.items()}
        scalars = Scalars(values={tag: value for tag, value in values.items() if not math.isnan(value)}, step=step)
        histogram = histogram_reading(tags("dropout", "histogram"), summary.variances, step)
        return [scalars] if histogram is None else [scalars, histogram]

    def rows_in(self, state: State) -> int:
        """See `Monitor.rows_in`."""
        return int(cast(DropoutSummary, state).seen)

    def concluded(self, tags: Tags, step: int) -> list[Reading]:
        """See `Monitor.concluded`; says once why nothing is probed."""
        if tags.stage != "val" or not self._note or self._told:
            return []
        self._told = True
        return [Text(tag=tags("dropout", "note"), step=step, markdown=self._note)]

    def memory(self) -> dict[str, Any]:
        """See `Monitor.memory`."""
        return {"validations": self._validations}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """See `Monitor.recall`."""
        self._validations = int(memory.get("validations", 0))

    def _probed(self, trainer: Any, module: nn.Module, batch: Any) -> DropoutSummary:
        layers = dropout_layers(module)
        if not layers:
            raise _UnsuitedError("the module has no dropout layer with a rate above 0.")
        if _spread(trainer, module):
            raise _UnsuitedError("its weights are spread over ranks, which would have to call it together.")
        call = self._call(module, batch)
        with own_random(rank()), dropping_out(module, layers), _nothing_logged(module):
            first = self._rows_of(call())
            logits = first.new_empty(self.passes, *first.shape)
            logits[0] = first
            for index in range(1, self.passes):
                logits[index] = self._rows_of(call())
        return DropoutSummary.of(logits)

    def _call(self, module: nn.Module, batch: Any) -> Callable[[], Any]:
        """The module on a copy of its inputs: it may change them in place, and others are to see the batch too."""
        if self.forward is not None:
            return lambda: getattr(module, cast(str, self.forward))(tree_map_only(Tensor, Tensor.clone, batch))
        inputs = batch[0] if isinstance(batch, list | tuple) and batch else batch
        if not isinstance(inputs, Tensor):
            raise _UnsuitedError(
                f"a batch of type {type(batch).__name__} has no first tensor to call it with. {REMEDY}"
            )
        return partial(_called, module, inputs[: self.rows])

    def _rows_of(self, output: Any) -> Tensor:
        """Rows of the logits, ``[rows, classes]``, evenly spaced over all where there are more than are wanted."""
        found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
        if not isinstance(found, Tensor) or found.ndim == 0 or not found.is_floating_point():
            raise _UnsuitedError(f"it gives {type(output).__name__}, in which no logits are found. {REMEDY}")
        yes_or_no = self._binary or found.ndim == 1
        z = found.reshape(-1, 1) if yes_or_no else found.movedim(self.dim, -1).flatten(0, -2)
        rows = min(len(z), cast(int, self.rows), max(1, MOST_ELEMENTS // (self.passes * max(1, z.shape[1]))))
        return z[torch.arange(rows, device=z.device) * len(z) // max(1, rows)]


class _UnsuitedError(Exception):
    """Why a module cannot be probed: nobody's fault."""


def _called(module: nn.Module, inputs: Tensor) -> Any:
    try:
        return module(inputs.clone())
    except NotImplementedError as error:
        raise _UnsuitedError(f"it has no forward. {REMEDY}") from error


def _spread(trainer: Any, module: nn.Module) -> bool:
    """Whether a call of the module on one rank may wait for others."""
    if any(map(is_distributed, module.parameters())):
        return True
    whole = ("DistributedDataParallel", "OptimizedModule")
    return world_size() > 1 and trainer.model is not module and type(trainer.model).__name__ not in whole


@contextlib.contextmanager
def _nothing_logged(module: nn.Module) -> Iterator[None]:
    """What the module logs with its `log` and `log_dict` is dropped."""
    names = ("log", "log_dict")
    kept = {name: module.__dict__[name] for name in names if name in module.__dict__}
    try:
        for name in names:
            module.__dict__[name] = lambda *args, **kwargs: None
        yield
    finally:
        for name in names:
            del module.__dict__[name]
        module.__dict__.update(kept)
