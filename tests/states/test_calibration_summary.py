import math
from dataclasses import replace

import pytest
import torch

from logitwatch.states.calibration_evidence import CalibrationEvidence
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.calibration_summary import CalibrationSummary
from logitwatch.states.position_calibration import PositionCalibration
from logitwatch.states.protocol import pack
from logitwatch.states.temperature_grid import TemperatureGrid


def batch(rows=400, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 4, generator=generator)
    return scale * z, z.softmax(-1).multinomial(1, generator=generator).squeeze(1)


def summary(z, y):
    parts = (CalibrationSketch, TemperatureGrid, CalibrationEvidence, PositionCalibration)
    return CalibrationSummary(*(part.of(z, y) for part in parts))


def test_its_parts_merge_each_with_its_like():
    z, y = batch()
    merged = summary(z[:100], y[:100]).merge(summary(z[100:], y[100:]))
    assert merged.sketch.count == merged.temperatures.count == merged.evidence.count == 400
    assert merged.merge(CalibrationSummary.empty()).sketch.nll() == merged.sketch.nll()


def test_its_size_is_below_a_mebibyte():
    assert 8 * sum(part.numel() for part in pack(CalibrationSummary.empty())) < 2**20


def test_refinement_is_the_nll_less_what_the_best_temperature_saves():
    seen = summary(*batch())
    # The sketch sums float32 costs, the grid sums its own: they agree to float32.
    assert seen.refinement() == pytest.approx(seen.temperatures.nll_at_optimum().item(), rel=1e-6)


def test_where_no_row_has_a_temperature_refinement_is_the_nll():
    seen = replace(summary(*batch()), temperatures=TemperatureGrid.empty())
    assert seen.refinement() == seen.sketch.nll().item()


def test_before_any_row_refinement_is_nan():
    assert math.isnan(CalibrationSummary.empty().refinement())


def test_a_target_without_a_class_leaves_refinement_infinite_and_no_nan():
    z, y = batch()
    z[0, y[0]] = -math.inf
    assert summary(z, y).refinement() == math.inf
