"""All that is kept for the calibration of a window or an epoch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from logitwatch.states.calibration_evidence import CalibrationEvidence
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.position_calibration import PositionCalibration
from logitwatch.states.protocol import merge_fields, nested
from logitwatch.states.temperature_grid import TemperatureGrid

__all__ = ["CalibrationSummary"]


@dataclass(frozen=True)
class CalibrationSummary:
    """A sketch and the evidence of every row, temperatures of those whose logits were taken, positions in sequences.

    Examples:
        >>> summary = CalibrationSummary.empty()
        >>> summary.merge(summary).sketch.count.item()
        0
    """

    sketch: CalibrationSketch = nested()
    temperatures: TemperatureGrid = nested()
    evidence: CalibrationEvidence = nested()
    positions: PositionCalibration = nested()

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> CalibrationSummary:
        """See `State.empty`."""
        return cls(
            CalibrationSketch.empty(device=device),
            TemperatureGrid.empty(device=device),
            CalibrationEvidence.empty(device=device),
            PositionCalibration.empty(device=device),
        )

    def merge(self, other: CalibrationSummary) -> CalibrationSummary:
        """See `State.merge`."""
        return merge_fields(self, other)

    def refinement(self) -> float:
        """NLL of every row, less what the best temperature would save, in nats.

        Where the temperatures are of a sample, this varies less from epoch to epoch than the NLL of the sample does.
        """
        whole, fit = self.sketch.nll().item(), self.temperatures.fit()
        saved = self.temperatures.nll().item() - fit.nll
        return whole - saved if saved > 0 and saved < whole else whole
