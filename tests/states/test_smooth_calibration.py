import math

import pytest
import torch
from torch import Tensor

from logitwatch.states.smooth_calibration import smooth_calibration_error, smooth_reliability_curve
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


def by_regression(c: Tensor, right: Tensor, t: Tensor, sigma: float) -> Tensor:
    """The definition: the mean of being right, weighed by the Gaussian and its images in 0 and 1."""
    images = torch.stack((c, -c, 2 - c))
    kernel = (-((t[:, None, None] - images) / sigma).square() / 2).exp().sum(1)
    return (kernel @ right.double()) / kernel.sum(1)


@pytest.mark.parametrize(
    ("number", "shift", "sigma"),
    [(300, 0.0, 42), (2000, 0.05, 73), (20_000, 0.01, 13), (100_000, 0.005, 7), (200_000, 0.0, 4)],
)
def test_the_curve_is_the_kernel_regression_of_the_rows(number: int, shift: float, sigma: int) -> None:
    c, right = rows(number, shift)
    curve = smooth_reliability_curve(grids(c, right))
    assert curve.bandwidth.item() * 1024 == sigma  # wide kernels and those with a grid of their own
    known = ~curve.accuracy.isnan()
    assert known.sum() >= 100
    assert curve.confidence[known].min() > 0.49  # nothing is said where no row is
    wanted = by_regression(c, right, curve.confidence[known], sigma / 1024)
    # Ten points to a bandwidth; grids of an odd number of intervals are read half of one aside, as in relplot.
    torch.testing.assert_close(curve.accuracy[known], wanted, rtol=0, atol=1e-3)


def test_the_density_is_that_of_the_rows() -> None:
    c, right = rows(2000)
    density = smooth_reliability_curve(grids(c, right)).density
    assert density.mean().item() == pytest.approx(1, abs=0.01)  # a mean over 200 points
    assert density[150].item() == pytest.approx(2, rel=0.2)  # half of the range holds all


def test_rows_of_one_confidence_make_a_curve_of_the_points_beside_it() -> None:
    c = torch.full((100,), 0.75, dtype=torch.float64)
    curve = smooth_reliability_curve(grids(c, torch.arange(100) < 40))
    known = ~curve.accuracy.isnan()
    torch.testing.assert_close(curve.confidence[known], c[:2], rtol=0, atol=1 / 199)
    torch.testing.assert_close(curve.accuracy[known], c[:2] * 0 + 0.4, rtol=0, atol=1e-3)
    assert curve.bandwidth.item() == pytest.approx(0.35, abs=0.01)  # as wide as the error


def test_between_rows_far_apart_there_is_no_curve() -> None:
    c = torch.cat((torch.full((500,), 0.25), torch.full((500,), 0.75))).double()
    right = torch.cat((torch.arange(500) < 125, torch.arange(500) < 375))
    curve = smooth_reliability_curve(grids(c, right))
    assert curve.bandwidth.item() < 0.01
    assert curve.accuracy[100].isnan()
    assert curve.accuracy[50].item() == pytest.approx(0.25, abs=1e-3)
    assert curve.accuracy[149].item() == pytest.approx(0.75, abs=1e-3)


def test_of_nothing_the_curve_has_no_point() -> None:
    curve = smooth_reliability_curve(SmoothingGrids.empty())
    assert curve.accuracy.isnan().all()
    assert curve.density.isnan().all()
    assert curve.bandwidth.isnan()
