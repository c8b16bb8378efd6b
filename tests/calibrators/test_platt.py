import pytest
import torch
from torch import Tensor

from logitwatch.calibrators.inputs import CalibrationWarning
from logitwatch.calibrators.platt import PlattScaling


def batch(rows: int = 20_000, classes: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = 1.5 * torch.randn(rows, classes, generator=generator)
    return z, z.softmax(-1).multinomial(1, generator=generator).squeeze(1)


def test_it_undoes_a_slope_and_an_offset() -> None:
    z, y = batch()
    platt = PlattScaling().fit(4 * z + torch.tensor([0.0, 2.0]), y)
    # z = (s - 2) / 4; standard errors of 0.02 or less.
    torch.testing.assert_close(4 * platt.slope, torch.ones(2), rtol=0, atol=0.06)
    torch.testing.assert_close(platt.intercept, torch.tensor([0.5, -0.5]), rtol=0, atol=0.06)


def test_two_classes_are_one_sigmoid() -> None:
    z, y = batch(500)
    platt = PlattScaling().fit(z, y)
    torch.testing.assert_close(platt.slope[0], platt.slope[1])
    wanted = (platt.slope[1] * (z[:, 1] - z[:, 0]) + platt.intercept[1]).sigmoid()
    torch.testing.assert_close(platt(z).softmax(-1)[:, 1], wanted, rtol=0, atol=1e-6)


def test_a_constant_added_to_a_row_changes_nothing() -> None:
    z, y = batch(500, 4)
    offsets = torch.arange(500).unsqueeze(1) % 64  # exact in float32 but for rounding of the sum
    shifted = PlattScaling().fit(z + offsets, y)(z + offsets)
    torch.testing.assert_close(shifted, PlattScaling().fit(z, y)(z), rtol=0, atol=1e-4)


def test_separable_rows_are_bounded_by_smoothing_and_told_without() -> None:
    z, _ = batch(500)
    y = z.argmax(-1)
    assert PlattScaling().fit(z, y)(z).softmax(-1).amax(-1).mean() < 0.998  # two rows of 500 are pretended
    with pytest.warns(CalibrationWarning, match="PlattScaling has no finite optimum for 2 of 2 classes") as seen:
        unbounded = PlattScaling(smoothing=False).fit(z, y)(z)
    assert unbounded.isfinite().all()
    assert seen[0].filename == __file__


def test_a_class_without_rows_is_rare_not_impossible() -> None:
    z, y = batch(500, 3)
    p = PlattScaling().fit(z, y.clamp(max=1))(z).softmax(-1)
    assert 0 < p[:, 2].max() < 0.02
    with pytest.warns(CalibrationWarning, match="for 1 of 3 classes, among them class 2"):
        PlattScaling(smoothing=False).fit(z, y.clamp(max=1))
