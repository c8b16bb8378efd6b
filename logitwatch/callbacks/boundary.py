"""One guard around every hook of a monitor, whoever wrote it: what fails in one never reaches Lightning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from logitwatch.callbacks._compat import LightningCallback

__all__ = ["guard_hooks", "is_plain"]

HOOKS = {
    *(name for name in dir(LightningCallback) if name.startswith("on_")),
    *("setup", "teardown", "state_dict", "load_state_dict"),
}


def guard_hooks(cls: type, base: type) -> None:
    """Guard the hooks a class defines.

    A hook of a subclass is isolated and switched off after three faults; the base's own hook of that name runs whatever
    becomes of it, because there all ranks reduce together and the module is let go. What ``state_dict`` gives must be
    plain, or Lightning could not write or load the checkpoint of the user.

    Args:
        cls: The class, with ``boundary`` (a `Faults`) and ``ran`` (a set of names) on its instances.
        base: The class whose hooks always run.
    """
    for name in HOOKS & vars(cls).keys():
        body = vars(cls)[name]
        if callable(body):
            guard = _skeleton(name, body) if cls is base else _guarded(name, body, vars(base).get(name))
            setattr(cls, name, functools.wraps(body)(guard))


def is_plain(value: Any) -> bool:
    """Whether a value is made of what a checkpoint can hold and ``torch.load(weights_only=True)`` accepts.

    Examples:
        >>> is_plain({"step": 3, "window": [1.0, None]}), is_plain({"made in": object()})
        (True, False)
    """
    if type(value) is dict:
        return all(type(key) in (str, int) and is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool, Tensor)


def _skeleton(name: str, body: Callable[..., Any]) -> Callable[..., Any]:
    def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.ran.add(name)
        result: Any = {} if name == "state_dict" else None
        with self.boundary.skeleton(f"{type(self).__name__}.{name}"):
            result = body(self, *args, **kwargs)
        return result  # noqa: RET504 - it is the default where the body failed

    return hook


def _guarded(name: str, body: Callable[..., Any], base: Callable[..., Any] | None) -> Callable[..., Any]:
    if name == "state_dict":
        body = _plain_only(body)

    def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.ran.discard(name)
        result, place = None, f"{type(self).__name__}.{name}"
        boundary = self.boundary
        if boundary.armed(place):
            result = boundary.attempt(place, functools.partial(body, self, *args, **kwargs), otherwise=None)
        if name == "setup":  # the monitor has joined others, who count together
            self.boundary.absorb(boundary)
        if name == "state_dict" and base is not None:
            return {**base(self), **(result or {})}
        return result if base is None or name in self.ran else base(self, *args, **kwargs)

    return hook


def _plain_only(state_dict: Callable[..., Any]) -> Callable[..., Any]:
    def plain(self: Any) -> Any:
        state = state_dict(self)
        if isinstance(state, dict) and is_plain(state):
            return state
        raise TypeError("state_dict must be a dictionary of numbers, strings, tensors, lists and the like, no more")

    return plain
