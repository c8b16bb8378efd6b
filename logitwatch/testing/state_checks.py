"""What a checkpoint must bear of a callback's state: each check takes a factory and raises AssertionError."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logitwatch.callbacks.boundary import is_plain
from logitwatch.testing._lightning import namespaces_of
from logitwatch.testing._telling import no_fault
from logitwatch.testing.specimen import STEPS, Factory, fit_with, loader, module, trainer

__all__ = [
    "STATE_CHECKS",
    "a_run_resumes_from_its_checkpoint",
    "its_state_does_not_grow",
    "its_state_is_plain_and_loads_safely",
]


def its_state_is_plain_and_loads_safely(factory: Factory) -> None:
    """Numbers, strings, tensors, lists and dictionaries, at any time: else the user's checkpoint cannot be read."""
    monitor = factory()

    def check(*_: Any) -> None:
        state = monitor.state_dict()
        assert is_plain(state), f"not plain: {_impure(state)}"
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)

    with no_fault(monitor):
        check()
        fit_with(monitor, check)
        check()


def its_state_does_not_grow(factory: Factory) -> None:
    """It is no larger in 60 steps than it was in the first 10, but for a count of each rule that raised an alert."""
    monitor, sizes = factory(), list[int]()

    def measure(*_: Any) -> None:
        state = monitor.state_dict()
        sizes.append(_size({**state, "alerts": {}} if isinstance(state, dict) else state))

    fit_with(monitor, measure, max_epochs=15)
    assert max(sizes) <= max(sizes[:10]), f"{max(sizes[:10])} bytes in the first 10 steps, {max(sizes)} in {len(sizes)}"


def a_run_resumes_from_its_checkpoint(factory: Factory) -> None:
    """Saved amid an epoch, loaded into a fresh one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "specimen.ckpt"

        def save(trainer: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(path)

        first, second = factory(), factory()
        with no_fault(first):
            fit_with(first, save)
        lightning = namespaces_of(second)[0]
        resumed = trainer([second], lightning=lightning)
        with no_fault(second):
            resumed.fit(module(lightning), loader(), loader(), ckpt_path=str(path))
        assert resumed.global_step == STEPS, f"ended after {resumed.global_step} steps of {STEPS}"


def _impure(state: Any) -> str:
    if isinstance(state, dict):
        return ", ".join(f"{key!r} is a {type(value).__name__}" for key, value in state.items() if not is_plain(value))
    return f"a {type(state).__name__}"


def _size(state: Any) -> int:
    """Bytes of a state, a number taking eight, however large it is."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(_size, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(_size, state))
    return len(state) if isinstance(state, str) else 8


STATE_CHECKS = (
    its_state_is_plain_and_loads_safely,
    its_state_does_not_grow,
    a_run_resumes_from_its_checkpoint,
)
