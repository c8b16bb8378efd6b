"""An optimizer step that would bring NaN or infinity into the weights does not happen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from logitwatch.callbacks.reduction import world_size

__all__ = ["StepSkipper"]

logger = logging.getLogger("logitwatch")


class StepSkipper:
    """Takes the gradients from the optimizer where one of them is not finite.

    Parameters without a gradient are left as they are by every optimizer of torch, and so is their state: momenta and
    step counts, bit for bit, and nothing decays. Ranks decide together, by one reduction of one number a step.

    It reads that number, so the host waits for backward. A fused optimizer of torch takes it on the device instead, as
    from a gradient scaler, and nobody waits.

    Examples:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> optimizer, skipper = torch.optim.Adam([weight]), StepSkipper()
        >>> for gradient in (1.0, float("nan")):
        ...     weight.grad = torch.full((2,), gradient)
        ...     skipper.before(optimizer)
        ...     optimizer.step()
        >>> skipper.skipped(), int(optimizer.state[weight]["step"]), weight.isfinite().all().item()
        (1, 1, True)
    """

    def __init__(self) -> None:
        self._skipped: list[Tensor] = []  # one number a device
        self._told: list[Any] = []  # optimizers that were handed it

    def before(self, optimizer: torch.optim.Optimizer) -> None:
        """To be called with the gradients in place, right before ``optimizer.step()`` reads them."""
        gradients = list(_gradients(optimizer))
        if not gradients:
            return
        bad = torch.stack([(~values.isfinite()).any().to(gradients[0].device) for values in gradients]).any().float()
        if world_size() > 1:
            dist.all_reduce(bad, op=dist.ReduceOp.MAX)
        self._count(bad)
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            self._hand_over(optimizer, bad)
        elif bad.item():
            for parameter in _parameters(optimizer):
                parameter.grad = None

    def skipped(self) -> int:
        """How many steps did not happen so far."""
        return int(sum(count.item() for count in self._skipped))

    def restart(self, skipped: int = 0) -> None:
        """Begin to count anew, from so many, and leave nothing in an optimizer."""
        self._skipped = [torch.tensor(float(skipped))] if skipped else []
        while self._told:
            optimizer = self._told.pop()
            for name in ("grad_scale", "found_inf"):
                optimizer.__dict__.pop(name, None)

    def _hand_over(self, optimizer: Any, bad: Tensor) -> None:
        """As a gradient scaler does, which may overwrite it and take it away again: it skips the step as well."""
        if not any(told is optimizer for told in self._told):
            self._told.append(optimizer)
        optimizer.grad_scale, optimizer.found_inf = None, bad

    def _count(self, bad: Tensor) -> None:
        for index, count in enumerate(self._skipped):
            if count.device == bad.device:
                self._skipped[index] = count + bad
                return
        self._skipped.append(bad.clone())


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _gradients(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """The gradients as plain dense tensors, of this rank's shards where they are sharded."""
    for parameter in _parameters(optimizer):
        gradient = parameter.grad
        if gradient is None:
            continue
        gradient = gradient.to_local() if hasattr(gradient, "to_local") else gradient
        yield gradient.coalesce().values() if gradient.is_sparse else gradient
