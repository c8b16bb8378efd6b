import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from logitwatch.calibrators.inputs import CalibrationWarning
from logitwatch.calibrators.vector import VectorScaling


def batch(rows: int = 3000) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = 1.5 * torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    return z, z.softmax(-1).multinomial(1, generator=generator).squeeze(1)


def test_it_undoes_slopes_and_offsets() -> None:
    z, y = batch(30_000)
    slope, offset = torch.tensor([2.0, 4.0, 0.5]), torch.tensor([1.0, -3.0, 2.0])
    scaling = VectorScaling().fit(slope * z + offset, y)
    # Standard errors of a slope near 1 are 0.015.
    torch.testing.assert_close(scaling.slope * slope, torch.ones(3), rtol=0, atol=0.06)
    wanted = -offset / slope
    torch.testing.assert_close(scaling.intercept, wanted - wanted.mean(), rtol=0, atol=0.06)


@pytest.mark.parametrize("scale", [1e-3, 50.0, 1e4])
def test_the_scale_of_the_logits_does_not_matter(scale: float) -> None:
    z, y = batch()
    plain, scaled = VectorScaling().double().fit(z, y), VectorScaling().double().fit(scale * z, y)
    torch.testing.assert_close(scaled(scale * z), plain(z), rtol=0, atol=1e-7)  # where the searches stop


def test_rows_it_separates_and_a_class_without_rows_stay_finite() -> None:
    z, y = batch()
    for targets in (z.argmax(-1), y.clamp(max=1)):
        calibrated = VectorScaling().fit(10 * z, targets)(10 * z)
        assert calibrated.abs().max() < 1e4
        assert F.cross_entropy(calibrated, targets) < F.cross_entropy(z, targets)
    assert 0 < calibrated.softmax(-1)[:, 2].mean() < 1e-3


def test_separable_rows_without_smoothing_are_told() -> None:
    z, _ = batch()
    with pytest.warns(CalibrationWarning, match="VectorScaling has no finite optimum: it separates every row") as seen:
        calibrated = VectorScaling(smoothing=0.0).fit(z, z.argmax(-1))(z)
    assert calibrated.isfinite().all()
    assert seen[0].filename == __file__


def test_a_class_that_counts_the_other_way_stays_absent() -> None:
    z, y = batch()
    scaling = VectorScaling().fit(-z, y)
    assert (scaling.slope < 0).all()
    assert scaling(torch.tensor([1.0, 2.0, -torch.inf]))[2] == -torch.inf


def test_smoothing_is_an_amount() -> None:
    with pytest.raises(ValueError, match="smoothing must be finite and >= 0, got -1"):
        VectorScaling(smoothing=-1)
    assert repr(VectorScaling()) == "VectorScaling(smoothing=0.5)"
