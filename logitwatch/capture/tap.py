"""Where logits come from: one tap for each LightningModule, shared by all monitors."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn
from torch._dynamo.eval_frame import skip_code

from logitwatch.capture.attention import AttentionEar, module_names
from logitwatch.capture.criteria import Call, Lender, read_module, watched_criteria
from logitwatch.capture.explicit import receiving
from logitwatch.capture.fused import unheard
from logitwatch.capture.heads import linear_names, made_by
from logitwatch.capture.hooks import (
    ForwardHook,
    StepWrapper,
    between_compiled_frames,
    directly,
    uncompiled,
    watching_compiler,
)
from logitwatch.capture.look import CriterionMode, Level, Look
from logitwatch.capture.observation import Observation
from logitwatch.capture.sharding import locate
from logitwatch.capture.split_rows import split_rows, whole_observation
from logitwatch.functional.row_statistics import RowStatistics
from logitwatch.functional.sharded_rows import SplitRows

__all__ = ["Listener", "Tap"]

STAGES = {"training_step": "train", "validation_step": "val", "test_step": "test", "predict_step": "predict"}
# Looks without a call after which a source that used to speak is said to be silent.
SILENT_LOOKS = 3

_taps: weakref.WeakKeyDictionary[nn.Module, Tap] = weakref.WeakKeyDictionary()


class Listener(Protocol):
    """Who a tap asks and tells."""

    def wants(self, stage: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Look | None:
        """A look to be filled if the step about to run is to be looked at, else None. Called on every step."""
        ...

    def receive(self, look: Look) -> None:
        """A step that was looked at is over, and backward has not begun."""
        ...

    def failed(self) -> None:
        """An exception, the one being handled, was kept from the step."""
        ...


class Tap:
    """Finds calls of the criterion in the steps of one module, by the order of sources in `Level`.

    Attached once, before anything is compiled; hooks are never toggled. Outside the steps that are looked at it costs
    a Python call for each step and one for each criterion.

    Examples:
        >>> module = nn.Sequential(nn.Linear(2, 2))
        >>> Tap.of(module) is Tap.of(module)
        True
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)
        self.listener: Listener | None = None
        self._look: Look | None = None
        self._running = False
        self.requested: set[str] = set()
        self._overheard: set[str] = set()
        self._undo: list[Callable[[], None]] = []
        self._lenders: dict[str, Lender] = {}
        self._best: dict[str, Level | None] = {}
        self._listen: dict[str, bool] = {}
        self._silent: dict[str, int] = {}
        self._generators: dict[torch.device, torch.Generator] = {}
        self._attention_rows = 0
        self._names: dict[int, str] = {}
        self.attached = False
        self.criteria: list[str] = []

    @classmethod
    def of(cls, module: nn.Module) -> Tap:
        """The tap of a module; made on first use."""
        if module not in _taps:
            _taps[module] = cls(module)
        return _taps[module]

    def attach(self, listener: Listener, *, requested: set[str] | None = None) -> None:
        """Put hooks on the criteria and wrap the steps; a second call only adds to what is requested.

        Args:
            listener: Who decides what is looked at and receives it.
            requested: Sources a monitor asked for by name: criteria, functions, or submodules to hook.
        """
        module = self._module()
        assert module is not None
        self.listener = listener
        new = (requested or set()) - self.requested
        self.requested |= new
        submodules, criteria = dict(module.named_modules()), watched_criteria(module)
        for name in new & (submodules.keys() - criteria.keys() - {""}):
            self._hook(submodules[name], self._on_module(name))
        if self.attached:
            return
        self.attached = True
        self.criteria = list(criteria)
        self._lenders = {name: criterion for name, criterion in criteria.items() if isinstance(criterion, Lender)}
        for name, criterion in criteria.items():
            self._hook(criterion, self._on_criterion(name, lends=isinstance(criterion, Lender)))
        for step, stage in STAGES.items():
            if callable(getattr(module, step, None)):
                self._undo.append(StepWrapper(module, step, self._around(stage)).remove)

    def overhear(self, name: str) -> None:
        """Note the calls of a linear layer in steps that are looked at, for `Observation.head`; goes with the hooks.

        Raises:
            ValueError: If no linear layer that may have a hook has this name.
        """
        module = self._module()
        assert module is not None
        known = linear_names(module)
        if name not in known:
            raise ValueError(f"head must be the name of a linear layer, one of {', '.join(known)}; got {name!r}")
        if self.attached and name not in self._overheard:
            self._overheard.add(name)
            self._hook(module.get_submodule(name), Look.overhear)

    def listen_to_attention(self, rows: int) -> None:
        """Listen to torch's attention in steps that are looked at, see `AttentionEar`; goes with the hooks.

        In an evaluation it is listened to in batches 0, 1, 2, 4, 8, ...: there every batch is looked at, and no budget
        keeps the cost.

        Args:
            rows: Query rows of each head in a call; the largest of those that were asked for counts.
        """
        self._attention_rows = max(self._attention_rows, rows)

    def detach(self) -> None:
        """Take every hook and wrapper off again. Harmless when there is none."""
        while self._undo:
            self._undo.pop()()
        self.listener = self._look = None
        self.attached = False
        self.requested, self.criteria, self._lenders, self._overheard = set(), [], {}, set()
        self._best, self._listen, self._silent = {}, {}, {}
        self._attention_rows, self._names = 0, {}

    def captured(self, look: Look, call: Call) -> Observation | SplitRows:
        """What a call of a look was about: an `observation`, or this rank's shards of rows whose classes are split."""
        placed = locate(call.logits, call.targets, call.mask, class_dim=call.class_dim, binary=call.binary)
        if placed is None or placed.shard is None:
            return self.observation(look, call)
        return split_rows(placed, class_dim=call.class_dim, ignore_index=call.ignore_index)

    def observation(self, look: Look, call: Call) -> Observation:
        """A call of a look as rows of logits; may raise where its shapes do not belong together."""
        lent = call.lent or {}
        if "row_statistics" in lent and call.targets is not None:
            keep = None if lent.get("counted", True) else 0
            targets = call.targets.detach()[:keep]
            rows = targets.reshape(-1)
            return whole_observation(
                RowStatistics(*(values[:keep] for values in lent["row_statistics"])),
                rows,
                rows.ne(-100 if call.ignore_index is None else call.ignore_index),
                call.logits.shape[-1],
                leading_shape=tuple(targets.shape),
                stage=look.stage,
                source=call.source,
                step=look.step,
                known={name: values[:keep] for name, values in lent["rows"].items()},
                generator=self.generator(call.device),
                logits_of=lent.get("logits_of"),
            )
        found = Observation.of(
            call.logits,
            call.targets,
            class_dim=call.class_dim,
            ignore_index=call.ignore_index,
            mask=call.mask,
            binary=call.binary,
            stage=look.stage,
            source=call.source,
            step=look.step,
            known=lent.get("rows"),
            generator=self.generator(call.logits.device),
        )
        found.head = made_by(look.heads, call.logits)
        return found

    def silent_source(self, look: Look) -> Level | None:
        """The level that used to speak in this stage and has now been silent for a few looks, said once; else None."""
        stage, level = look.stage, look.level
        if level is not None:
            self._best[stage], self._silent[stage] = level, 0
            self._listen[stage] = level == look.heard or level > Level.FUNCTION
            return None
        self._silent[stage] = self._silent.get(stage, 0) + 1
        if self._silent[stage] != SILENT_LOOKS:
            return None
        return self._best.pop(stage, None)

    def generator(self, device: torch.device) -> torch.Generator:
        """The private generator of a device: the run's own random numbers are never drawn from."""
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(0)
        return self._generators[device]

    def _around(self, stage: str) -> Callable[..., Any]:
        @between_compiled_frames
        def around(step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            listener = self.listener
            if self._running or listener is None:  # a step called by another step is part of that one
                return step(*args, **kwargs)
            call = directly if watching_compiler() is None else uncompiled
            look: Look | None = None
            undo = None
            try:
                look = call(listener.wants, stage, args, kwargs)
            except Exception:
                listener.failed()
            self._running = True
            try:
                if look is None:
                    return step(*args, **kwargs)
                undo = contextlib.ExitStack()
                call(look.attempt, self._begin, look, undo, args[1] if len(args) > 1 else kwargs.get("batch_idx", 0))
                result = step(*args, **kwargs)
            finally:
                self._running = False
                if look is not None and undo is not None:
                    call(look.attempt, undo.close)
            try:
                call(look.finish, result)
                call(listener.receive, look)
            except Exception:
                listener.failed()
            return result

        return around

    def _begin(self, look: Look, undo: contextlib.ExitStack, batch: Any) -> None:
        undo.callback(setattr, self, "_look", None)
        self._look = look
        for lender in self._lenders.values():
            if look.lend(lender, {}):
                undo.callback(look.lend, lender, None)
        undo.enter_context(receiving(partial(look.note, Level.EXPLICIT)))
        if self._attention_rows and isinstance(batch, int) and (look.stage == "train" or not batch & (batch - 1)):
            look.attention = self._ear(look, batch)
        if look.attention is not None or self._needs_mode(look.stage):
            undo.enter_context(unheard())
            mode = CriterionMode(look, self._lenders)
            undo.callback(mode.leave)
            mode.__enter__()  # type: ignore[no-untyped-call, unused-ignore]

    def _ear(self, look: Look, batch: int) -> AttentionEar:
        module = self._module()
        if not self._names and module is not None:
            self._names = module_names(module)
        seed = (look.step << 20) + batch
        return AttentionEar(self._names, self._attention_rows, self.generator, seed=seed, now=look.now)

    def _needs_mode(self, stage: str) -> bool:
        """Whether torch's functions must be listened to: no better source spoke when this stage was last looked at.

        A compiled network is compiled once more under a mode, so in training criteria that have a hook are given a look
        to speak. Elsewhere every row counts, so there nothing is left to the second look.
        """
        if self.requested or self._silent.get(stage, 0) > 0:
            return True
        return self._listen.get(stage, stage != "train" or not self.criteria)

    def _hook(self, module: nn.Module, report: Callable[[Look, nn.Module, Any, Any, Any], None]) -> None:
        @torch.compiler.disable  # type: ignore[untyped-decorator, unused-ignore]
        def eagerly(look: Look, *call: Any) -> None:
            look.attempt(report, look, *call)

        def hook(*call: Any) -> None:
            # Compiled code traces hooks too: there the function mode does the seeing, and this is compiled away. What
            # changes is read after that question, or it would be guarded on.
            if not torch.compiler.is_compiling() and self._look is not None:
                eagerly(self._look, *call)

        skip_code(hook.__code__)  # nor is it compiled alone, as if nobody ever looked
        handle = module.register_forward_hook(ForwardHook(hook), with_kwargs=True)
        self._undo.append(handle.remove)

    def _on_criterion(self, name: str, *, lends: bool) -> Callable[[Look, nn.Module, Any, Any, Any], None]:
        def report(look: Look, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            look.add(Level.LOSS if lends else Level.CRITERION, read_module(name, module, args, kwargs, output))
            if lends:
                module.lent = {}  # type: ignore[assignment]  # what was lent belongs to the call just noted

        return report

    def _on_module(self, name: str) -> Callable[[Look, nn.Module, Any, Any, Any], None]:
        def report(look: Look, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                look.add(Level.MODULE, Call(name, output, None))

        return report
