import pytest
import torch
import torch.nn.functional as F

from logitwatch.calibrators.beta import BetaCalibration
from logitwatch.calibrators.inputs import CalibrationWarning
from logitwatch.calibrators.platt import PlattScaling


def test_the_map_it_was_drawn_from_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    s = 3 * torch.randn(40_000, generator=generator)
    truth = (0.5 * F.logsigmoid(s) - 1.5 * F.logsigmoid(-s) + 0.3).sigmoid()
    y = (torch.rand(40_000, generator=generator) < truth).long()
    beta = BetaCalibration().fit(torch.stack((torch.zeros_like(s), s), 1), y)
    # Standard errors are 0.02 or less.
    assert [beta.a[1].item(), beta.b[1].item(), beta.c[1].item()] == pytest.approx([0.5, 1.5, 0.3], abs=0.06)
    # Class 0 is the mirror image.
    assert [beta.b[0].item(), beta.a[0].item(), -beta.c[0].item()] == pytest.approx([0.5, 1.5, 0.3], abs=0.06)


def test_with_equal_ends_it_is_platt() -> None:
    z = torch.tensor([[0.0, 4.0], [0.0, 1.0], [1.0, 0.0], [4.0, 0.0]]).repeat(10, 1)
    y = torch.tensor([1, 1, 0, 0, 1, 0, 1, 0]).repeat(5)  # symmetric in the two classes
    beta = BetaCalibration().fit(z, y)
    torch.testing.assert_close(beta.a, beta.b)
    torch.testing.assert_close(beta(z).softmax(-1), PlattScaling().fit(z, y)(z).softmax(-1), rtol=0, atol=1e-6)


def test_probabilities_past_the_last_of_float32_still_count() -> None:
    # p and 1 - p are 0 in float32 here, and their logarithms are not.
    s = torch.tensor([-200.0, -100.0, 100.0, 200.0]).repeat(50)
    y = torch.tensor([0, 1, 0, 1, 0, 0, 1, 1]).repeat(25)
    beta = BetaCalibration().fit(torch.stack((torch.zeros_like(s), s), 1), y)
    p = beta(torch.tensor([[0.0, -200.0], [0.0, 100.0], [0.0, 200.0]])).softmax(-1)[:, 1]
    assert 0.1 < p[0] < 0.2 < 0.5 < p[1] < p[2] < 0.9


def test_separable_rows_are_bounded_by_smoothing_and_told_without() -> None:
    z = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    y = z.argmax(-1)
    assert BetaCalibration().fit(z, y)(z).softmax(-1).amax(-1).mean() < 0.998  # two rows of 300 are pretended
    with pytest.warns(CalibrationWarning, match="BetaCalibration has no finite optimum for 2 of 2"):
        BetaCalibration(smoothing=False).fit(z, y)
