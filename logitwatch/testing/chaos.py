"""Faults at random in whatever the suite attempts, the same ones whenever the seed is the same."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from typing import Any

import torch.distributed as dist

from logitwatch.callbacks._compat import LightningCallback
from logitwatch.callbacks.faults import Faults

__all__ = ["ChaosCallback", "InjectedFault"]


class InjectedFault(RuntimeError):  # noqa: N818 - a fault is what the suite calls it everywhere
    """What `ChaosCallback` raises."""


class ChaosCallback(LightningCallback):
    """Makes the suite fail with probability ``p`` before and after whatever it attempts.

    Hooks, sources, monitors, sinks, saving and merging fail; the run must not notice, and must count every fault:
    ``monitor.faults == chaos.total``. Whether a moment fails depends on the seed, the rank, the place, and how many
    moments that place had before, so neither threads nor timing change it. They change how many moments there are where
    the cadence is chosen from measured time: set it by hand.

    Put it first among the callbacks, so that it is there when the monitors are set up. Lightning then also takes it off
    first; as a context around the run it is there until the monitors have let go::

        with ChaosCallback(seed=3) as chaos:
            trainer.fit(module, loader)

    Args:
        seed: Names the sequence of faults.
        p: Probability of a fault at each moment, in ``[0, 1]``.

    Attributes:
        injected: Faults of the run under way, or the last one, by place.

    Raises:
        ValueError: If ``p`` is not a probability.

    Examples:
        >>> import logging
        >>> logging.disable()
        >>> faults = Faults()
        >>> with ChaosCallback(seed=0, p=1.0) as chaos:
        ...     faults.attempt("monitor", print, "never printed", otherwise="nothing")
        'nothing'
        >>> chaos.injected, chaos.total == faults.count
        (Counter({'monitor': 1}), True)
        >>> logging.disable(logging.NOTSET)
    """

    def __init__(self, seed: int = 0, p: float = 0.1) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], got {p!r}")
        self.seed, self.p = seed, p
        self.injected: Counter[str] = Counter()
        self._moments: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._contexts = self._runs = 0

    @property
    def total(self) -> int:
        """How many faults were injected, see `injected`."""
        return self.injected.total()

    def __enter__(self) -> ChaosCallback:
        self._install()
        self._contexts += 1
        return self

    def __exit__(self, *exception: object) -> None:
        self._contexts -= 1
        self._runs = 0
        self._remove()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Begin to inject."""
        self._install()
        self._runs += 1

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Inject no longer, unless a context is open. Listed twice, first and last, it goes on to the last."""
        self._runs = max(0, self._runs - 1)
        self._remove()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """See `teardown`, which Lightning does not call after an exception."""
        self.teardown(trainer, pl_module, "")

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the options and the counts, and injects nothing."""
        attached = ("log", "log_dict")  # by Lightning: methods of the module
        kept = {name: value for name, value in self.__dict__.items() if name not in attached}
        return {**kept, "_lock": None, "_contexts": 0, "_runs": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _install(self) -> None:
        if self._contexts + self._runs == 0:
            self.injected, self._moments = Counter(), Counter()
            Faults.inject = self._strike

    def _remove(self) -> None:
        if self._contexts + self._runs == 0 and Faults.inject == self._strike:
            Faults.inject = None

    def _strike(self, place: str) -> None:
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        with self._lock:
            moment = self._moments[place]
            self._moments[place] += 1
            if not self._fails(f"{self.seed}/{rank}/{place}/{moment}"):
                return
            self.injected[place] += 1
        raise InjectedFault(f"fault {self.injected[place]} injected into {place}, at moment {moment} of rank {rank}")

    def _fails(self, moment: str) -> bool:
        digest = hashlib.blake2b(moment.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.p * 2**64
