"""The calibrator that changes nothing: what every other one has to beat."""

from typing import final

from torch import Tensor

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.inputs import CalibrationRows

__all__ = ["Identity"]


@final
class Identity(Calibrator):
    """Logits as they came, lifted to float32 or wider; its fit only checks and counts rows.

    Examples:
        >>> import torch
        >>> identity = Identity().fit(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
        >>> identity(torch.tensor([1.0, float("-inf")]))
        tensor([1., -inf])
    """

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        return self._lifted(logits, 0)

    def _fit(self, rows: CalibrationRows) -> None:
        """See `Calibrator._fit`."""
