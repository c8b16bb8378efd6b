"""What every calibrator promises: fit once on held-out rows, then logits in, logits out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from logitwatch.calibrators.inputs import CalibrationRows, calibration_rows
from logitwatch.functional.numerics import upcast

__all__ = ["Calibrator"]

C = TypeVar("C", bound="Calibrator")


class Calibrator(nn.Module, ABC):
    """A map from logits to logits, fitted on held-out rows after the model is trained.

    What is learned lies in buffers: an optimizer of the model does not see it, `state_dict` carries it, and it loads
    into a fresh calibrator whatever its size. Buffers are float32, as those of any module; ``calibrator.double()``
    before the fit keeps what was learned in float64. The fit itself is in float64.

    The forward takes ``[..., classes]`` and gives the same shape, float32 or wider: half precision is lifted. A class
    that is absent (``-inf``) stays absent; a row with NaN or ``+inf`` has a NaN softmax, as before. `torch.jit.script`,
    `torch.jit.trace` and `torch.export` take it once it is fitted; before, they and the forward raise.

    Attributes:
        fitted: Whether there is something to apply.
        rows_used: Rows of the last fit, int64.
        rows_ignored: Rows it ignored: ``ignore_index``, or weight 0.
        rows_left_out: Rows it could not use: NaN, ``+inf``, or an absent class for a target.
    """

    has_fit: Tensor
    rows_used: Tensor
    rows_ignored: Tensor
    rows_left_out: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Beside the buffer, since to look at a tensor waits for its device, and cannot be scripted or exported.
        self.fitted = False
        self.register_buffer("has_fit", torch.tensor(False))
        for name in ("rows_used", "rows_ignored", "rows_left_out"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    def fit(self: C, logits: Tensor, targets: Tensor, *, weights: Tensor | None = None, ignore_index: int = -100) -> C:
        """Learn the map from labelled logits the model was not trained on.

        Args:
            logits: ``[..., classes]``, two classes or more; ``-inf`` is an absent class.
            targets: Class indices, shaped as ``logits`` without classes.
            weights: Shaped as ``targets``: a row of weight 2 counts as two rows, one of weight 0 as ignored.
            ignore_index: The target of a row that does not count.

        Returns:
            The calibrator itself.

        Raises:
            TypeError: If logits are not floating point or targets not integers.
            ValueError: If shapes do not fit, a target is no class, a weight is negative or not finite, no row is left,
                or the rows left are all of one class.
        """
        # A buffer made in inference mode could not be saved for a later backward, nor changed in place.
        with torch.inference_mode(False), torch.no_grad():
            rows = calibration_rows(logits, targets, weights, ignore_index)
            self._fit(rows)
            self._learned(
                rows_used=torch.tensor(len(rows.targets)),
                rows_ignored=torch.tensor(rows.ignored),
                rows_left_out=torch.tensor(rows.left_out),
            )
        return self

    @abstractmethod
    def forward(self, logits: Tensor) -> Tensor:
        """Calibrated logits.

        Args:
            logits: ``[..., classes]``, any floating type.

        Returns:
            Shaped as ``logits``, float32 or wider.

        Raises:
            RuntimeError: If the calibrator is not fitted.
            ValueError: If it was fitted for another number of classes.
        """

    @abstractmethod
    def _fit(self, rows: CalibrationRows) -> None:
        """Learn from rows that count, and hand the result to `_learned`."""

    def _learned(self, **buffers: Tensor) -> None:
        """Replace buffers, each in the type and on the device it had, and be fitted."""
        for name, value in buffers.items():
            setattr(self, name, value.to(getattr(self, name)))
        self.has_fit = torch.ones_like(self.has_fit)
        self.fitted = True

    def _lifted(self, logits: Tensor, num_classes: int) -> Tensor:
        """Logits in float32 or wider; an error where there is nothing to apply to them. 0 is any number of classes."""
        if not self.fitted:
            raise RuntimeError("expected a fitted calibrator, got one that is not: call fit(logits, targets) first")
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            _check_classes(logits, num_classes)
        return upcast(logits)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take the shapes of what is loaded: the size of a table is known only from the data."""
        for name, buffer in self.named_buffers(recurse=False):
            stored = state_dict.get(prefix + name)
            if isinstance(stored, Tensor) and stored.shape != buffer.shape:
                setattr(self, name, buffer.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        stored = state_dict.get(prefix + "has_fit")
        if isinstance(stored, Tensor):
            self.fitted = bool(stored)


def _check_classes(logits: Tensor, num_classes: int) -> None:
    # A tracer would make a tensor of the comparison.
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return
    if logits.dim() == 0 or num_classes not in (0, logits.shape[-1]):
        raise ValueError(
            f"expected logits [..., {num_classes or 'classes'}] as in the fit, got shape {tuple(logits.shape)}"
        )
