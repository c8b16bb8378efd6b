import math

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from logitwatch.functional.uncertainty import softmax_entropy
from logitwatch.metrics import (
    CalibrationError,
    LogitRange,
    OptimalTemperature,
    PredictiveEntropy,
    SmoothCalibrationError,
)
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.temperature_grid import TemperatureGrid


def batch(*, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(40, 6, generator=generator), torch.randint(6, (40,), generator=generator)


@pytest.mark.parametrize(("quantity", "expected"), [("range", 8.0), ("max", 5.0), ("min", -3.0)])
def test_the_range_is_of_present_logits(quantity: str, expected: float) -> None:
    metric = LogitRange(quantity)
    metric.update(torch.tensor([[1.0, -math.inf], [5.0, math.nan]]), torch.tensor([0, 0]))
    metric.update(torch.tensor([[-3.0, 0.0]]), torch.tensor([0]))
    assert metric.compute().item() == expected


@pytest.mark.parametrize("quantity", ["range", "max", "min"])
def test_the_range_of_nothing_is_nan(quantity: str) -> None:
    metric = LogitRange(quantity)
    metric.update(torch.full((1, 2), -math.inf))
    assert metric.compute().isnan()


def test_the_entropy_is_the_mean_over_all_rows_of_all_batches() -> None:
    metric = PredictiveEntropy()
    batches = [batch(seed=seed) for seed in range(3)]
    for z, y in batches:
        metric.update(z, y)
    rows = torch.cat([softmax_entropy(z.double()) for z, _ in batches])
    assert metric.compute().item() == pytest.approx(rows.mean().item(), rel=1e-6)  # rows are float32


def test_logits_between_zero_and_one_are_still_logits() -> None:
    # A model that is not yet trained gives such logits. Taken for probabilities they would look badly calibrated.
    z = torch.rand(500, 6, generator=torch.Generator().manual_seed(0))
    y = torch.randint(6, (500,), generator=torch.Generator().manual_seed(1))
    metric = CalibrationError()
    metric.update(z, y)
    assert metric.compute().item() == CalibrationSketch.of(z, y).ece().item()
    assert metric.compute().item() < 0.15


def test_the_options_of_the_calibration_error_reach_the_sketch() -> None:
    z, y = batch()
    metric = CalibrationError(num_bins=10, norm="max", ignore_index=0)
    metric.update(z, y)
    assert metric.compute().item() == CalibrationSketch.of(z, y, ignore_index=0).ece(10, "max").item()
    assert metric.state.ignored.item() == (y == 0).sum()


def test_the_smooth_error_is_that_of_the_sketch_of_all_batches() -> None:
    z, y = batch()
    metric = SmoothCalibrationError(ignore_index=0)
    for part in (slice(0, 15), slice(15, None)):
        metric.update(z[part], y[part])
    wanted = CalibrationSketch.of(z, y, ignore_index=0).smooth_ece()
    assert metric.compute().item() == pytest.approx(wanted.item(), abs=1e-12)  # float64 sums
    assert metric.state.ignored.item() == (y == 0).sum()


def test_the_optimal_temperature_is_of_all_batches() -> None:
    z, _ = batch()
    y = z.argmax(-1).roll(5).where(torch.arange(40) % 4 == 0, z.argmax(-1))
    metric = OptimalTemperature(ignore_index=0, span=(0.5, 10.0))
    for part in (slice(0, 15), slice(15, None)):
        metric.update(z[part], y[part])
    whole = TemperatureGrid.of(z, y, ignore_index=0)
    assert whole.verdict() == metric.state.verdict() == "ok"
    assert metric.compute().item() == pytest.approx(whole.temperature().item(), rel=1e-10)  # float64 sums
    assert metric.state.ignored.item() == (y == 0).sum()


def test_the_probability_of_yes_can_be_calibrated_instead_of_the_top_label() -> None:
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(300, 4, generator=generator)
    y = (torch.rand(300, 4, generator=generator) < z.sigmoid()).long()
    y[0, 0] = 9
    metric = CalibrationError(mode="positive", ignore_index=9)
    for part in (slice(0, 100), slice(100, None)):
        metric.update(z[part], y[part])
    c, kept = z.double().sigmoid(), y != 9
    bins = (c * 15).floor()
    error = sum((c - y)[kept & (bins == b)].sum().abs().item() for b in range(15)) / kept.sum().item()
    assert metric.compute().item() == pytest.approx(error, abs=1e-6)  # float32 probabilities


@pytest.mark.parametrize("by_name", [False, True])
def test_all_of_them_fit_one_collection_with_those_of_torchmetrics(by_name: bool) -> None:
    metrics = MetricCollection(
        {
            "range": LogitRange(),
            "min": LogitRange("min"),
            "entropy": PredictiveEntropy(),
            "ece": CalibrationError(),
            "mce": CalibrationError(norm="max"),
            "temperature": OptimalTemperature(),
            "smooth": SmoothCalibrationError(),
            "accuracy": MulticlassAccuracy(6, average="micro"),
        }
    )
    z, y = batch()
    for part in (slice(0, 15), slice(15, None)):
        if by_name:
            metrics.update(preds=z[part], target=y[part])
        else:
            metrics.update(z[part], y[part])
    values, whole = metrics.compute(), CalibrationSketch.of(z, y)
    assert values["range"].item() == (z.max().double() - z.min().double()).item()
    assert values["min"].item() == z.min().item()
    assert values["ece"].item() == pytest.approx(whole.ece().item(), abs=1e-12)
    assert values["mce"].item() == pytest.approx(whole.ece(norm="max").item(), abs=1e-12)
    assert values["accuracy"].item() == pytest.approx(whole.accuracy().item(), abs=1e-6)


def test_half_precision_gives_the_numbers_of_the_same_values_in_float32() -> None:
    z, y = batch()
    for make in (LogitRange, PredictiveEntropy, CalibrationError, OptimalTemperature, SmoothCalibrationError):
        low, high = make(), make()
        low.update(z.bfloat16(), y)
        high.update(z.bfloat16().float(), y)
        torch.testing.assert_close(low.compute(), high.compute(), rtol=0, atol=0, equal_nan=True)
        assert torch.equal(low.packed_sums, high.packed_sums)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitRange("mean"), 'quantity must be "range", "max" or "min"'),
        (lambda: CalibrationError(norm="L1"), 'norm must be "l1", "l2" or "max"'),
        (lambda: CalibrationError(num_bins=0), "num_bins must be in"),
        (lambda: CalibrationError(mode="binary"), 'mode must be "top_label" or "positive"'),
        (lambda: OptimalTemperature(span=(2.0, 1.0)), "two positive temperatures"),
    ],
)
def test_a_wrong_option_fails_when_it_is_given(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
