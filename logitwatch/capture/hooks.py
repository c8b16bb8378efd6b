"""The two things a tap leaves on a module: a forward hook and a wrapper of a step. Copies get neither."""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch._C import _dynamo
from torch._dynamo.decorators import skip
from torch._dynamo.eval_frame import skip_code

__all__ = ["ForwardHook", "StepWrapper", "between_compiled_frames", "directly", "uncompiled", "watching_compiler"]

F = TypeVar("F", bound=Callable[..., Any])


def between_compiled_frames(function: F) -> F:
    """A function that `torch.compile` neither compiles nor traces, while what it calls is compiled all the same.

    A step may be compiled when it is wrapped already: then what wraps it runs inside `torch.compile`.
    """
    skip(function)  # type: ignore[no-untyped-call, unused-ignore]
    return function


def directly(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function."""
    return function(*args)


# The same where a compiler watches: what is called is not compiled with the step it stands beside.
uncompiled = torch.compiler.disable(directly)  # type: ignore[no-untyped-call, unused-ignore]
# Asks for the compiler that watches the frames about to run; None at nearly all times.
watching_compiler = _dynamo.eval_frame.get_eval_frame_callback


class ForwardHook:
    """A forward hook that reports calls and never returns a value, since a value would replace the module's output.

    A hook is added once, before anything is compiled, and stays until it is removed: hooks added or toggled later are
    dropped by compiled code without a word. Deep copies and pickles of the module carry a hook that does nothing.
    """

    def __init__(self, report: Callable[[nn.Module, Any, Any, Any], None] | None = None) -> None:
        self._report = report

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._report is not None:
            self._report(module, args, kwargs, output)

    # Traced inside other code, and never compiled alone: see `CriterionMode`.
    skip_code(__call__.__code__)

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardHook:
        return ForwardHook()

    def __reduce__(self) -> tuple[type[ForwardHook], tuple[()]]:
        return ForwardHook, ()


class StepWrapper:
    """Stands in for a bound ``training_step`` (or validation, test, predict): calls ``around(step, args, kwargs)``.

    A step of the module is wrapped rather than Lightning's batch hooks overridden, for three reasons: it costs a tenth
    of a hook, what is captured is read before backward can reuse its memory, and it is the one place where a function
    mode can be entered and left again whatever the step does.
    """

    def __init__(self, module: nn.Module, name: str, around: Callable[..., Any]) -> None:
        self.module, self.name = module, name
        self.around = around
        self._replaced = module.__dict__.get(name)  # an attribute of the instance, where somebody else wrapped before
        self._step = getattr(module, name)
        # Lightning takes one wrapper off to see the signature and the code of the step, so all are taken off for it.
        self.__wrapped__ = inspect.unwrap(self._step)
        setattr(module, name, self)

    @between_compiled_frames
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.around(self._step, args, kwargs)

    def remove(self) -> None:
        """Put the step back, unless somebody wrapped it again in the meantime; then only stop watching."""
        self.around = _plain
        if self.module.__dict__.get(self.name) is not self:
            return
        if self._replaced is None:
            delattr(self.module, self.name)
        else:
            setattr(self.module, self.name, self._replaced)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self._replaced is not None:
            return copy.deepcopy(self._replaced, memo)
        return _own_step(memo.get(id(self.module), self.module), self.name)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (_own_step, (self.module, self.name)) if self._replaced is None else (_same, (self._replaced,))


@between_compiled_frames
def _plain(step: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return step(*args, **kwargs)


def _same(step: Any) -> Any:
    return step


def _own_step(module: nn.Module, name: str) -> Any:
    """The step a module has from its class."""
    return types.MethodType(getattr(type(module), name), module)
