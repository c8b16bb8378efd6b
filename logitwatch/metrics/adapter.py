"""Any state as a `torchmetrics.Metric`: two tensors, one summed and one maximised over ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.states.protocol import Packed, State, pack, unpack

__all__ = ["StateMetric"]


class StateMetric(Metric):
    """A state that torchmetrics updates, resets and reduces over ranks, and one number read from it.

    The state lies packed in two float64 tensors of constant size, so that a synchronisation is two collectives whatever
    the state. Casts of a model to another type move them but never narrow them: half of a count is not a count.

    A `torchmetrics.MetricCollection` lets metrics with equal states after the first batch share one. Where two of them
    differ only in what they leave out, as two values of ``ignore_index`` do, give it ``compute_groups=False``.

    Examples:
        >>> from operator import attrgetter
        >>> from logitwatch.states.moments import Moments
        >>> metric = StateMetric(Moments, attrgetter("mean"))
        >>> metric.update(torch.tensor([1.0, 2.0]))
        >>> metric.update(torch.tensor([6.0]))
        >>> metric.compute().item(), metric.state.count.item()
        (3.0, 3)
    """

    full_state_update = False
    is_differentiable = False
    packed_sums: Tensor
    packed_maxima: Tensor

    def __init__(
        self,
        state_type: type[State],
        read_out: Callable[[Any], Any],
        *,
        of: Callable[..., State] | None = None,
        empty: Callable[[], State] | None = None,
        **kwargs: Any,
    ) -> None:
        """Wrap a state.

        Args:
            state_type: The state.
            read_out: What `compute` returns, from the state. Importable (no lambda) where the metric is pickled.
            of: From the arguments of `update` to a state; ``state_type.of`` where None.
            empty: The state of having seen nothing, which fixes the layout; ``state_type.empty`` where None. For states
                of several sizes, as ``partial(ClasswiseCalibration.empty, num_classes=10)``.
            **kwargs: As for `torchmetrics.Metric`.
        """
        super().__init__(**kwargs)
        self._empty, self._read_out = state_type.empty if empty is None else empty, read_out
        self._of: Callable[..., State] = state_type.of if of is None else of  # type: ignore[attr-defined]
        nothing = pack(self._empty())
        self.add_state("packed_sums", nothing.sums, dist_reduce_fx="sum")
        self.add_state("packed_maxima", nothing.maxima, dist_reduce_fx="max")

    @property
    def state(self) -> Any:
        """What was seen so far: on this rank, or on all of them while synchronised."""
        return unpack(self._empty(), Packed(self.packed_sums, self.packed_maxima))

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Merge the state of one batch; the arguments are those of ``of``."""
        # Packed states merge as the states do, since a field is summed or maximised and nothing else.
        batch = pack(self._of(*args, **kwargs))
        self.packed_sums = self.packed_sums + batch.sums
        self.packed_maxima = torch.maximum(self.packed_maxima, batch.maxima)

    def compute(self) -> Any:
        """The read-out of the state."""
        return self._read_out(self.state)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        """Moves as `torch.nn.Module.to` does, without its casts."""

        def moved(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return fn(tensor)
            # Where an empty tensor goes, this one follows: the numbers themselves never pass through a narrower type.
            device = fn(tensor.new_empty(0, dtype=torch.float32)).device
            return tensor.to(device, accumulator_dtype(device))

        return super()._apply(moved, exclude_state)
