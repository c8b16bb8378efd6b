"""A reporter as a Lightning callback: hooks say when, the session does the rest."""

from __future__ import annotations

import json
from typing import Any

from logitwatch.callbacks._compat import LightningCallback
from logitwatch.callbacks.boundary import guard_hooks
from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.reporter import Reporter
from logitwatch.callbacks.session import Session

__all__ = ["Monitor"]


class Monitor(LightningCallback, Reporter):
    """Base of the monitors: a callback for a Trainer of either Lightning namespace.

    A monitor defines what a `Reporter` says. When to look, how ranks are reduced, where readings go and what happens to
    its exceptions is the business of the session, which all monitors of a module share.

    The batch hooks of Lightning are None here, so that they cost nothing. A subclass may define any hook; it is guarded
    as the rest is, and what this class does in the hook happens whether or not the subclass calls ``super``.
    """

    # A plain attribute in place of Lightning's property, which it asks for at every hook of every step.
    state_key: str = ""

    def __init__(
        self,
        *,
        budget: float = 0.01,
        every_n_steps: int | None = None,
        rows: int | None = None,
        source: str | None = None,
        on_fault: str = "isolate",
    ) -> None:
        super().__init__()
        _require(0 < budget < 1, "budget must be in (0, 1)", budget)
        _require(every_n_steps is None or every_n_steps >= 1, "every_n_steps must be >= 1 or None", every_n_steps)
        _require(rows is None or rows >= 1, "rows must be >= 1 or None", rows)
        _require(on_fault in ("isolate", "raise"), "on_fault must be 'isolate' or 'raise'", on_fault)
        self.budget, self.every_n_steps, self.rows = budget, every_n_steps, rows
        self.source, self.on_fault = source, on_fault
        self.state_key = f"logitwatch.{type(self).__name__}{json.dumps({'source': source}, sort_keys=True)}"
        self.boundary = Faults(on_fault)
        self.ran: set[str] = set()
        self._left_behind = Faults(on_fault)  # of the run before
        self._session: Session | None = None
        self._left: dict[str, Any] = {}
        self.saved: dict[str, Any] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        guard_hooks(cls, Monitor)

    @property
    def faults(self) -> int:
        """How many exceptions were isolated in the run under way, or the last one, by all monitors of the module."""
        return self._left_behind.count + self.boundary.count

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Join the session of this module before anything is compiled or wrapped."""
        self._session = Session.join(trainer, pl_module, self)
        self._session.faults.absorb(self.boundary)
        self.boundary, self._left_behind = self._session.faults, Faults(self.on_fault)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the sinks."""
        self._tell("train_start")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Report what is left of the last window."""
        self._tell("train_end")

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Stop the clock of the training steps."""
        self._tell("evaluation_start")

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the validation epoch."""
        self._tell("epoch_end", "val")

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the test epoch."""
        self._tell("epoch_end", "test")

    def on_predict_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Report what was predicted."""
        self._tell("epoch_end", "predict")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Gather from all ranks what the checkpoint is to hold of the open window."""
        self._tell("save", checkpoint)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Save what is known and take every hook off: Lightning calls no teardown after an exception."""
        self._leave("abort")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take every hook off."""
        self._leave("close")

    def state_dict(self) -> dict[str, Any]:
        """Cadence and open window, as plain numbers and tensors; after a run, as it left them."""
        return self._left if self._session is None else self._session.saved(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on as saved; read when the first step begins."""
        self.saved = state_dict if isinstance(state_dict, dict) else {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy or a pickle has the options and the state, and nothing of the Trainer and the module."""
        attached = ("log", "log_dict")  # by Lightning: methods of the module
        kept = {name: value for name, value in self.__dict__.items() if name not in attached}
        return {**kept, "_session": None, "boundary": None, "_left_behind": None, "_left": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.boundary, self._left_behind = Faults(self.on_fault), Faults(self.on_fault)

    def _leave(self, event: str) -> None:
        self._left = self.state_dict() or self._left
        try:
            self._tell(event)
        finally:
            if self._session is not None:
                self._left_behind, self.boundary = self.boundary, Faults(self.on_fault)
            # What a checkpoint brought and no training step took up is not for a later run.
            self._session, self.saved = None, {}

    def _tell(self, event: str, *args: Any) -> None:
        if self._session is not None:
            self._session.event(self, event, *args)


guard_hooks(Monitor, Monitor)


def _require(condition: bool, expected: str, got: Any) -> None:
    if not condition:
        raise ValueError(f"{expected}, got {got!r}")
