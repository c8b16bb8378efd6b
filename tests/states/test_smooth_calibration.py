import math

import pytest
import torch
from torch import Tensor

from logitwatch.states.smooth_calibration import smooth_calibration_error
from logitwatch.states.smoothing_grids import SmoothingGrids


def grids(c: Tensor, right: Tensor) -> SmoothingGrids:
    return SmoothingGrids.of(c, right, torch.ones_like(right))


def rows(number: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Confidences above a half, overstated by ``shift``."""
    generator = torch.Generator().manual_seed(number)
    c = 0.5 + torch.rand(number, generator=generator, dtype=torch.float64) / 2
    return c, torch.rand(number, generator=generator, dtype=torch.float64) < c - shift


def by_integral(c: Tensor, right: Tensor, sigma: float) -> float:
    """The definition: residuals smoothed by the Gaussian and its images in 0 and 1, their absolute value integrated."""
    t = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    images = torch.cat((c, -c, 2 - c))
    gap = (c - right.double()).repeat(3)
    kernel = (-((t.unsqueeze(1) - images) / sigma).square() / 2).exp() / (math.sqrt(2 * math.pi) * sigma)
    return (kernel @ gap / len(c)).abs().mean().item()


@pytest.mark.parametrize(("number", "shift"), [(300, 0.0), (300, 0.2), (1000, 0.05), (2000, 0.0)])
def test_the_error_is_that_of_the_definition_at_the_first_bandwidth_not_below_it(number: int, shift: float) -> None:
    c, right = rows(number, shift)
    error = smooth_calibration_error(grids(c, right)).item()
    sigmas = [k / 1024 for k in range(max(2, int(error * 1024) - 1), int(error * 1024) + 4)]
    wanted = next(integral for sigma in sigmas if (integral := by_integral(c, right, sigma)) <= sigma)
    # Grid and mesh have ten points to a bandwidth, which is worth a few parts in a thousand.
    assert error == pytest.approx(wanted, rel=0.01)


def test_the_time_it_takes_is_that_of_the_grids_alone() -> None:
    c, right = rows(1000, 0.1)
    once = grids(c, right)
    many = once
    for _ in range(30):
        many = many.merge(many)
    # All but the floor of the density is as before.
    assert smooth_calibration_error(many).item() == pytest.approx(smooth_calibration_error(once).item(), rel=1e-3)


def test_wrong_in_full_confidence_is_an_error_of_one_and_right_is_none() -> None:
    c = torch.ones(1000, dtype=torch.float64)
    assert smooth_calibration_error(grids(c, c < 0)).item() == pytest.approx(1.0, abs=1e-3)
    assert smooth_calibration_error(grids(c, c > 0)).item() == 0.0


def test_nothing_seen_has_no_error() -> None:
    assert smooth_calibration_error(SmoothingGrids.empty()).isnan()
