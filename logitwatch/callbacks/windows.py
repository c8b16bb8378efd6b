"""States that are being gathered: one for each monitor, stage and data loader."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.reduction import alike, rank, reduced
from logitwatch.callbacks.reporter import Reporter
from logitwatch.callbacks.split_windows import SplitWindows
from logitwatch.capture.look import Look
from logitwatch.states.protocol import Packed, State, pack, to_device, unpack

__all__ = ["Windows", "plain_state"]

logger = logging.getLogger("logitwatch")

SCHEMA = 2


class Windows:
    """What has been seen since it was last reported, by monitors that stay the same.

    Args:
        faults: Where what fails is counted.
        module: What is trained; see `SplitWindows`.

    Attributes:
        split: Rows whose classes are split over ranks, which only all ranks together can tell anything of.
    """

    def __init__(self, faults: Faults | None = None, module: Any = None) -> None:
        self._faults = faults or Faults()
        self.split = SplitWindows(module, self._faults)
        self._states: dict[tuple[str, str, int], State] = {}
        self._empty: list[tuple[Reporter, State]] | None = None

    def add(self, monitor: Reporter, stage: str, loader: int, state: State | None) -> None:
        """Merge one more state into a window."""
        if state is None:
            return
        key = (monitor.state_key, stage, loader)
        window = self._states.get(key)
        self._states[key] = state if window is None else window.merge(state)

    def gather(self, monitor: Reporter, look: Look, make: Callable[[], State | None]) -> None:
        """Merge what a monitor makes of a look into its window; its exceptions are isolated."""
        place = type(monitor).__name__
        if self._faults.armed(place):
            self._faults.attempt(place, lambda: self.add(monitor, look.stage, look.loader, make()), otherwise=None)

    def clear(self, monitor: Reporter, stage: str, loader: int = 0) -> None:
        """Begin a window anew."""
        self._states.pop((monitor.state_key, stage, loader), None)

    def merged(
        self,
        monitors: Sequence[Reporter],
        stage: str,
        loaders: int,
        device: torch.device,
        also: Sequence[tuple[State, State]] = (),
    ) -> tuple[dict[tuple[Reporter, int], State], list[State]]:
        """The windows of a stage over all ranks, on the CPU. Order and sizes are the same on every rank.

        What all ranks together tell of split rows is in the window of the first rank from then on.

        Args:
            monitors: Whose windows, equal on all ranks.
            stage: Which stage.
            loaders: How many data loaders it has.
            device: Where collectives run.
            also: Further states to be reduced with them, each with an empty one.

        Returns:
            The windows by monitor and loader, and the further states.
        """
        known = self._known(monitors, device)
        keys = [(monitor, loader) for monitor, _ in known for loader in range(loaders)]
        states = [self._states.get((monitor.state_key, stage, loader)) for monitor, loader in keys]
        empty = [nothing for _, nothing in known for _ in range(loaders)]
        also = [*also, *(split := self.split.on_their_way(monitors, stage, loaders, device))]
        states += [state for state, _ in also]
        empty += [nothing for _, nothing in also]
        whole = reduced(states, empty, device, self._faults)
        windows, rest = dict(zip(keys, whole, strict=False)), whole[len(keys) :]
        rest, parts = rest[: len(also) - len(split)], rest[len(also) - len(split) :]
        for (monitor, loader), state in self.split.joined(parts, monitors, stage, loaders).items():
            window = windows.get((monitor, loader))
            if window is not None:
                place = type(monitor).__name__
                windows[monitor, loader] = self._faults.attempt(place, window.merge, state, otherwise=window)
                if rank() == 0:
                    self.add(monitor, stage, loader, to_device(state, device))
        self.split.clear(stage)
        return windows, rest

    def saved(self, monitor: Reporter) -> dict[str, Any]:
        """The training window of a monitor on this rank as plain tensors for a checkpoint."""
        return plain_state(self._states.get((monitor.state_key, "train", 0)))

    def restore(self, monitor: Reporter, saved: Any, device: torch.device) -> None:
        """Go on with a saved training window; one that does not fit is left alone, with a warning."""
        try:
            packed = _packed(saved)
            if packed is not None:
                packed = Packed(packed.sums.to(device), packed.maxima.to(device))
                self._states[monitor.state_key, "train", 0] = unpack(monitor.empty(device), packed)
        except Exception as error:
            text = "logitwatch: the saved state of %s cannot be used, starting afresh: %s"
            logger.warning(text, type(monitor).__name__, error)

    def _known(self, monitors: Sequence[Reporter], device: torch.device) -> list[tuple[Reporter, State]]:
        """The monitors whose states can be merged, each with its empty state: asked for and agreed on once."""
        if self._empty is None:
            made: list[tuple[Reporter, State | None, int]] = []
            for monitor in monitors:
                place = f"{type(monitor).__name__}.empty"
                made.append((monitor, *self._faults.attempt(place, _sized, monitor, device, otherwise=(None, -1))))
            fits = alike([size for _, _, size in made], device)
            self._empty = [(m, s) for (m, s, _), fit in zip(made, fits, strict=True) if fit and s is not None]
        return self._empty


def plain_state(state: State | None) -> dict[str, Any]:
    """A state as plain numbers and tensors with a checksum; without tensors where there is none.

    Examples:
        >>> plain_state(None)
        {'schema': 2}
    """
    if state is None:
        return {"schema": SCHEMA}
    sums, maxima = (tensor.cpu().clone() for tensor in pack(state))
    return {"schema": SCHEMA, "sums": sums, "maxima": maxima, "checksum": _checksum(sums, maxima)}


def _packed(saved: Any) -> Packed | None:
    """What `plain_state` saved; raises where it is not what was saved."""
    if not isinstance(saved, Mapping) or saved.get("schema") != SCHEMA:
        schema = saved.get("schema") if isinstance(saved, Mapping) else type(saved).__name__
        raise ValueError(f"expected schema {SCHEMA}, got {schema}")
    if "sums" not in saved:
        return None
    sums, maxima = saved["sums"], saved["maxima"]
    if _checksum(sums, maxima) != saved["checksum"]:
        raise ValueError("its checksum is wrong, it was damaged")
    return Packed(sums, maxima)


def _sized(monitor: Reporter, device: torch.device) -> tuple[State | None, int]:
    nothing = monitor.empty(device)
    return nothing, sum(part.numel() for part in pack(nothing))


def _checksum(sums: torch.Tensor, maxima: torch.Tensor) -> int:
    return zlib.crc32(maxima.numpy().tobytes(), zlib.crc32(sums.numpy().tobytes()))
