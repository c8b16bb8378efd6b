"""The global random numbers a run may draw from: their state, set and put back."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["kept_random", "own_random", "random_states", "seed_everything"]


def random_states() -> dict[str, Any]:
    """The state of every generator that is global, by whose it is; numpy's where it is imported."""
    states: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call, unused-ignore]
        states["cuda"] = torch.cuda.get_rng_state_all()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        states["numpy"] = numpy.random.get_state()
    return states


def seed_everything(seed: int) -> None:
    """Seed them all."""
    random.seed(seed)
    torch.manual_seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)


@contextlib.contextmanager
def own_random(seed: int) -> Iterator[None]:
    """As `kept_random`, and what the body draws is by this seed.

    Dropout draws from the global generators and takes no other, so these are lent for a while.

    Examples:
        >>> with own_random(3):
        ...     first = torch.rand(1)
        >>> with own_random(3):
        ...     bool(torch.rand(1) == first)
        True
    """
    with kept_random():
        random.seed(seed)
        # Not `torch.manual_seed`: where CUDA is not in use yet, it would seed it when it comes to be, after this.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call, unused-ignore]
            for generator in torch.cuda.default_generators:
                generator.manual_seed(seed)
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numpy.random.seed(seed)
        yield


@contextlib.contextmanager
def kept_random() -> Iterator[None]:
    """Whatever the body draws, the states after it are those before."""
    states = random_states()
    try:
        yield
    finally:
        random.setstate(states["python"])
        torch.set_rng_state(states["torch"])
        if "cuda" in states:
            torch.cuda.set_rng_state_all(states["cuda"])
        if "numpy" in states:
            sys.modules["numpy"].random.set_state(states["numpy"])
