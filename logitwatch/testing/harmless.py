"""Two runs that must be one: with something that watches, and without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from logitwatch.callbacks.generators import kept_random, random_states, seed_everything
from logitwatch.sinks.glossary import QUANTITIES

__all__ = ["assert_harmless"]

# What the suite logs itself; whatever else is logged is the user's.
FAMILIES = ("alerts/", *{f"{name.partition('/')[0]}/" for name in QUANTITIES})


def assert_harmless(run_with: Callable[[], Any], run_without: Callable[[], Any], *, seed: int = 0) -> None:
    """Assert that a run is bit for bit the same run with something as without it.

    Both are run from the same seeds of torch, numpy and Python; the random numbers of the caller are put back. Compared
    are parameters, buffers, gradients that are left, states of optimizers and of learning-rate schedulers, steps and
    epochs, the random numbers that would come next, and every metric the run without it logged, but for those of
    logitwatch. NaN equals NaN. What is logged besides is no harm.

    Args:
        run_with: Makes a module and a Trainer, trains, and returns the Trainer.
        run_without: The same without what is under test.
        seed: Of both runs.

    Raises:
        AssertionError: If anything differs; lists everything that does, and by how much.
        ValueError: If both runs trained one module, which says nothing.

    Examples:
        >>> from logitwatch.callbacks.logit_monitor import LogitMonitor
        >>> from logitwatch.testing.specimen import train
        >>> assert_harmless(lambda: train([LogitMonitor()]), lambda: train([]))
        >>> class Draws(LogitMonitor):
        ...     def on_train_end(self, trainer, pl_module):
        ...         torch.rand(1)
        >>> assert_harmless(lambda: train([Draws()]), lambda: train([]))
        Traceback (most recent call last):
            ...
        AssertionError: the run is not the same with it:
        random numbers of torch: drawn or seeded
    """
    with kept_random():
        seed_everything(seed)
        alone = run_without()
        without = _left_by(alone)
        seed_everything(seed)
        watched = run_with()
        with_it = _left_by(watched)
    if watched.lightning_module is alone.lightning_module:
        raise ValueError("both runs trained the same module; each must make its own")
    found = list(_run_differences(with_it, without))
    assert not found, "the run is not the same with it:\n" + "\n".join(found)


def _left_by(trainer: Any) -> dict[str, Any]:
    """What a run has left, copied: the next may use the same tensors."""
    states = {name: _plain(state) for name, state in random_states().items()}
    module = trainer.lightning_module
    left = {
        "parameter": dict(module.named_parameters()),
        "buffer": dict(module.named_buffers()),
        "gradient": {name: parameter.grad for name, parameter in module.named_parameters()},
        "optimizer": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "scheduler": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "global_step": trainer.global_step,
        "current_epoch": trainer.current_epoch,
        "callback_metrics": _of_the_user(trainer.callback_metrics),
        "logged_metrics": _of_the_user(trainer.logged_metrics),
    }
    copied: dict[str, Any] = _copied(left)
    return {**copied, "random": states}


def _of_the_user(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.startswith(FAMILIES)}


def _run_differences(with_it: dict[str, Any], without: dict[str, Any]) -> Iterator[str]:
    for whose, state in without.pop("random").items():
        if with_it["random"].get(whose, state) != state:
            yield f"random numbers of {whose}: drawn or seeded"
    for what, value in without.items():
        other = with_it[what]
        if what.endswith("_metrics"):
            other = {name: metric for name, metric in other.items() if name in value}
        yield from _differences(other, value, what)


def _differences(one: Any, other: Any, where: str) -> Iterator[str]:
    """Where two nested values differ, and how; the first is what the run with it has."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        text = _tensor_difference(one, other)
        if text:
            yield f"{where}: {text}"
    elif isinstance(one, dict) and isinstance(other, dict):
        for key in {**other, **one}:
            if key not in one or key not in other:
                yield f"{where} {key}: only {'with' if key in one else 'without'} it"
            else:
                yield from _differences(one[key], other[key], f"{where} {key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from _differences(a, b, f"{where} {index}")
    elif not _same(one, other):
        yield f"{where}: {_short(one)} with it, {_short(other)} without"


def _same(one: Any, other: Any) -> bool:
    """Equality of what is not two tensors. Objects that equal nothing but themselves are compared by what they are."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return False
    if callable(one) or "__eq__" not in {name for kind in type(one).__mro__[:-1] for name in vars(kind)}:
        return type(one) is type(other)
    return bool(one == other) or bool(one != one and other != other)


def _tensor_difference(one: Tensor, other: Tensor) -> str:
    """An empty string where two tensors are equal in every bit, NaN being NaN."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return f"{_short(one)} with it, {_short(other)} without"
    a, b = one.reshape(-1), other.reshape(-1)
    wide = torch.complex128 if a.is_complex() else torch.float64
    x, y = a.to(wide), b.to(wide)
    differs = (_bits(a) != _bits(b)).any(-1) & ~(x.isnan() & y.isnan())
    count = int(differs.sum())
    if count == 0:
        return ""
    if a.numel() == 1:
        return f"{a.item()!r} with it, {b.item()!r} without"
    return f"{count} of {a.numel()} elements differ, by up to {(x - y).abs()[differs].max().item():.3g}"


def _bits(flat: Tensor) -> Tensor:
    """``[elements, bytes]``."""
    real = torch.view_as_real(flat.resolve_conj()) if flat.is_complex() else flat.unsqueeze(-1)
    return real.contiguous().view(torch.uint8)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _plain(state: Any) -> Any:
    """The state of a generator as nested tuples and numbers, which compare by value."""
    if isinstance(state, list | tuple):
        return tuple(map(_plain, state))
    return state.tolist() if hasattr(state, "tolist") else state


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
