"""One step that is looked at: the calls seen in it, and which of them to believe."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.eval_frame import skip_code
from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode

from logitwatch.capture.attention import AttentionEar
from logitwatch.capture.attention_calls import ATTENTION
from logitwatch.capture.criteria import FUNCTIONS, Call, Lender, read_function, read_module
from logitwatch.capture.explicit import explicit_call, observe
from logitwatch.capture.fused import Listening
from logitwatch.capture.heads import LinearCall, read_linear

__all__ = ["CriterionMode", "Level", "Look"]

TARGET_KEYS = ("targets", "target", "labels", "label", "y")


class Level(enum.IntEnum):
    """The sources, best first: the more the source knows of the loss, the earlier it is believed."""

    EXPLICIT = 0
    LOSS = 1
    CRITERION = 2
    FUNCTION = 3
    OUTPUTS = 4
    MODULE = 5


class Look:
    """Collects the calls of one step. Holds references, not copies, and only until the step is over.

    Attributes:
        step: Optimizer steps taken before.
        number: The same on all ranks, and another one for each look.
        heard: The best level at which the function mode saw anything; hooks are not asked for it.
        heads: Calls of the linear layer that is overheard, see `Tap.overhear`.
        attention: Who listens to attention in this step, if anybody does, see `Tap.listen_to_attention`.
        now: What work amid the step is timed with.
    """

    def __init__(self, stage: str, loader: int = 0) -> None:
        self.stage = stage
        self.loader = loader
        self.step = self.number = 0
        self.result: Any = None
        self.heard: Level | None = None
        self.heads: list[LinearCall] = []
        self.attention: AttentionEar | None = None
        self.now: Callable[[], float] = time.perf_counter
        self._calls: dict[Level, list[Call]] = {level: [] for level in Level}
        self._fault: Exception | None = None

    @property
    def seconds(self) -> float:
        """What has been spent on this look amid the step."""
        return 0.0 if self.attention is None else self.attention.seconds

    def add(self, level: Level, call: Call | None) -> None:
        """Note a call, unless backward is recomputing a checkpointed region: then it was seen in forward already."""
        if call is not None and torch._C._current_graph_task_id() == -1:  # type: ignore[attr-defined, unused-ignore]
            self._calls[level].append(call)

    def overhear(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Note a call of a linear layer; see `add`."""
        call = read_linear(module, args, kwargs, output)
        if call is not None and torch._C._current_graph_task_id() == -1:  # type: ignore[attr-defined, unused-ignore]
            self.heads.append(call)

    def note(self, level: Level, read: Callable[..., Call | None], *args: Any) -> None:
        """Read a call amid the user's step and note it; see `attempt`."""
        self.attempt(lambda: self.add(level, read(*args)))

    def attempt(self, call: Callable[..., object], *args: Any) -> None:
        """Run what is ours amid the user's step, which goes on whatever fails here."""
        try:
            call(*args)
        except Exception as error:
            self.failed(error)

    def hear(self, level: Level, read: Callable[..., Call | None], *args: Any) -> None:
        """Read a call the function mode sees; see `note`."""
        before = len(self._calls[level])
        self.note(level, read, *args)
        if len(self._calls[level]) > before:
            self.heard = level if self.heard is None else min(level, self.heard)

    def lend(self, loss: Any, lent: dict[str, Any] | None) -> bool:
        """Ask a loss for what it lends, or with None no more; whether it is one that can be asked and was not yet."""
        try:
            if lent is not None and not (isinstance(loss, Lender) and loss.lent is None):
                return False
            loss.lent = lent
        except Exception as error:
            self.failed(error)
            return False
        return True

    def failed(self, error: Exception) -> None:
        """Keep what failed amid the user's step for `calls` to raise, where faults are isolated and counted."""
        self._fault = error.with_traceback(None)  # its frames would keep the logits

    def seen(self, level: Level) -> list[Call]:
        """Calls noted at a level so far."""
        return self._calls[level]

    @property
    def level(self) -> Level | None:
        """The best level at which anything was seen."""
        return next((level for level in Level if self._calls[level]), None)

    def calls(self, requested: Iterable[str] = ()) -> list[Call]:
        """Calls at the best level, and at any level those of the requested sources; raises what failed to be read."""
        if self._fault is not None:
            raise self._fault
        asked = set(requested)
        best = self.level
        return [call for level, calls in self._calls.items() for call in calls if level is best or call.source in asked]

    def finish(self, result: Any) -> None:
        """Note what the step returned; a dictionary may carry logits and targets."""
        self.result = result
        self.note(Level.OUTPUTS, _returned, result)


class CriterionMode(Listening):
    """Sees calls of torch's criteria, however they were imported, and of our losses, while the context lasts.

    Compiled code traces the body of this mode. There a list that grows would compile anew at each step, as its length
    is guarded, so calls seen while compiling are kept as a chain, each with those before it. It is read when the step
    is over and before backward.

    Args:
        look: Where calls are noted.
        lenders: Our losses that have a name.
    """

    def __init__(self, look: Look, lenders: Mapping[str, Lender] | None = None) -> None:
        super().__init__()
        self._look = look
        self._lenders = lenders or {}
        self._kept: Any = None
        self._attends = look.attention is not None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        compiling = torch.compiler.is_compiling()
        if func is observe:
            self._kept = (func, args, kwargs, None, self._kept)
            return None
        name = getattr(func, "__name__", "")
        if compiling and name == "unflatten":
            func = torch.unflatten  # the method calls that of its base class, which is not traced under a mode
        called = func
        if name == "__call__":
            if not compiling:
                return self._borrow(func, args, kwargs)
            called = args[0]
        result = func(*args, **kwargs)
        if compiling and (called is not func or func in FUNCTIONS):
            self._kept = (called, args, kwargs, result, self._kept)
        elif func in FUNCTIONS:
            self._see(func, args, kwargs, result)
        elif self._attends and func in ATTENTION:
            if not compiling:
                self._attend(func, args, kwargs)
            elif torch.is_grad_enabled():  # backward keeps queries and keys; elsewhere they would be kept for us alone
                self._kept = (func, args, kwargs, None, self._kept)
        return result

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def _attend(self, *call: Any, compiled: bool = False) -> None:
        if self._look.attention is not None:
            self._look.attention.hear(*call, compiled=compiled)

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def _see(self, *call: Any) -> None:
        try:
            self.finish()  # what compiled code saw before this call
            self._look.hear(Level.FUNCTION, read_function, *call)
        except Exception as error:
            self._look.failed(error)

    def _borrow(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run a loss of ours and note what it lends; one that is a submodule has a hook and was asked already."""
        loss = args[0] if args else None
        asked = self._look.lend(loss, {})
        try:
            result = func(*args, **kwargs)
            if asked:
                self._see_ours(loss, args[1:], kwargs, result)
        finally:
            if asked:
                self._look.lend(loss, None)
        return result

    @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
    def _see_ours(self, loss: Any, *call: Any) -> None:
        self._look.hear(Level.LOSS, read_module, self._name(loss), loss, *call)

    def leave(self) -> None:
        """Take this mode off the stack, whatever is above it and whether or not it got there, and read what it kept."""
        above = []
        while self in _get_current_function_mode_stack():  # type: ignore[no-untyped-call, unused-ignore]
            mode = _pop_mode()  # type: ignore[no-untyped-call, unused-ignore]
            if mode is not self:
                above.append(mode)
        for mode in reversed(above):
            _push_mode(mode)  # type: ignore[no-untyped-call, unused-ignore]
        self.finish()

    def finish(self) -> None:
        """Hand over what compiled code left, in the order of its calls."""
        kept, self._kept = self._kept, None
        calls = []
        while kept is not None:
            *call, kept = kept
            calls.append(call)
        for called, args, kwargs, result in reversed(calls):
            if called is observe:
                self._look.hear(Level.EXPLICIT, partial(explicit_call, *args, **kwargs))
            elif called in FUNCTIONS:
                self._look.hear(Level.FUNCTION, self._unseen, called, args, kwargs, result)
            elif called in ATTENTION:
                self._attend(called, args, kwargs, compiled=True)
            elif isinstance(called, Lender):
                self._look.hear(Level.LOSS, read_module, self._name(called), called, args[1:], kwargs, result)

    def _name(self, loss: Any) -> str:
        """The qualified name of a submodule, else the name of its class."""
        return next((name for name, lender in self._lenders.items() if lender is loss), type(loss).__name__)

    def _unseen(self, func: Any, args: Any, kwargs: Any, result: Any) -> Call | None:
        call = read_function(func, args, kwargs, result)
        # A graph that is run as Python (backend "eager") was also seen while it ran.
        known = call is not None and any(seen.logits is call.logits for seen in self._look.seen(Level.FUNCTION))
        return None if known else call


# Where code that is being compiled falls back to Python, these would be compiled alone, anew for each function. Inside
# other code they are traced all the same.
for _traced in (CriterionMode.__torch_function__, CriterionMode._borrow, Look.lend):
    skip_code(_traced.__code__)


def _returned(result: Any) -> Call | None:
    if not isinstance(result, Mapping) or not isinstance(result.get("logits"), Tensor):
        return None
    logits = result["logits"]
    targets = next((result[key] for key in TARGET_KEYS if isinstance(result.get(key), Tensor)), None)
    return Call("outputs", logits, targets, _class_dim(logits, targets))


def _class_dim(logits: Tensor, targets: Tensor | None) -> int:
    """Last, unless the targets only fit ``[N, C, d1, ...]``."""
    if targets is None or logits.ndim < 3 or targets.shape == logits.shape[:-1]:
        return -1
    return 1 if targets.shape == logits.shape[:1] + logits.shape[2:] else -1
