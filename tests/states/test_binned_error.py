import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from logitwatch.states import binned_error
from logitwatch.states.binned_error import (
    calibration_error,
    debiased_l1_error,
    debiased_squared_error,
    error_interval,
    null_error,
    signed_error,
)
from logitwatch.states.confidence_cells import Bins, ConfidenceCells


def bins(c: Tensor, right: Tensor, num_bins: int = 15) -> Bins:
    return ConfidenceCells.of(c, right, torch.ones_like(right)).in_bins(num_bins)


def calibrated(number: int, *, seed: int = 0, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Confidences crowded near 1, right as often as they say less ``shift``."""
    generator = torch.Generator().manual_seed(seed)
    c = 0.1 + 0.9 * torch.rand(number, generator=generator, dtype=torch.float64) ** 0.4
    return c, torch.rand(number, generator=generator, dtype=torch.float64) < c - shift


def rows_by_bin(c: Tensor, right: Tensor, num_bins: int) -> list[tuple[Tensor, Tensor]]:
    """Confidences and hits of each occupied bin, by plain comparison."""
    bin_of_row = (c * num_bins).long().clamp(max=num_bins - 1)
    return [(c[bin_of_row == i], right[bin_of_row == i].double()) for i in bin_of_row.unique()]


@pytest.mark.parametrize("num_bins", [1, 15, 3600])
def test_the_debiased_squared_error_is_the_squared_gap_less_its_variance(num_bins: int) -> None:
    c, right = calibrated(700, shift=0.1)
    wanted = 0.0
    for p, y in rows_by_bin(c, right, num_bins):
        gap, n = p - y, len(p)
        noise = gap.var().item() if n > 1 else (p * (1 - p)).item()
        wanted += n / 700 * (gap.mean().item() ** 2 - noise / n)
    assert debiased_squared_error(bins(c, right, num_bins)).item() == pytest.approx(wanted, abs=1e-12)  # float64 sums


def test_it_is_that_of_kumar_where_the_confidences_of_a_bin_are_equal() -> None:
    generator = torch.Generator().manual_seed(0)
    c = torch.randint(2, 15, (600,), generator=generator).double() / 15 + 0.01
    right = torch.rand(600, generator=generator) < c
    wanted = 0.0
    for p, y in rows_by_bin(c, right, 15):
        wanted += len(p) / 600 * ((p.mean() - y.mean()) ** 2 - y.mean() * (1 - y.mean()) / (len(p) - 1)).item()
    assert debiased_squared_error(bins(c, right)).item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(("number", "num_bins"), [(5, 15), (40, 15), (300, 15), (300, 1), (300, 100)])
def test_the_debiased_squared_error_is_zero_on_average_for_calibrated_rows(number: int, num_bins: int) -> None:
    repeats = 800
    errors = torch.stack(
        [debiased_squared_error(bins(*calibrated(number, seed=seed), num_bins)) for seed in range(repeats)]
    )
    assert abs(errors.mean().item()) <= 3 * errors.std().item() / math.sqrt(repeats)
    assert errors.min() < 0  # it is not clipped


def test_the_debiased_squared_error_finds_the_error_that_is_there() -> None:
    errors = torch.stack([debiased_squared_error(bins(*calibrated(400, seed=seed, shift=0.1))) for seed in range(400)])
    assert abs(errors.mean().item() - 0.01) <= 3 * errors.std().item() / 20


def by_draws(c: Tensor, right: Tensor) -> float:
    """``l1`` error less its excess when the gaps seen are disturbed, from drawn normal noise instead of its mean."""
    noise = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = 0.0
    for p, y in rows_by_bin(c, right, 15):
        gap, sigma = (p - y).mean(), (p * (1 - p)).sum().sqrt() / len(p)
        total += len(p) / len(c) * (2 * gap.abs() - (gap + sigma * noise).abs().mean()).item()
    return total


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.3])
def test_the_debiased_l1_error_is_what_drawn_noise_gives(shift: float) -> None:
    c, right = calibrated(400, shift=shift)
    # 15 means of 200 000 draws, of a spread below a tenth.
    assert debiased_l1_error(bins(c, right)).item() == pytest.approx(by_draws(c, right), abs=5e-4)


@pytest.mark.parametrize("number", [200, 1000, 5000])
def test_the_debiased_l1_error_takes_off_four_tenths_of_the_bias(number: int) -> None:
    seen = [bins(*calibrated(number, seed=seed)) for seed in range(100)]
    plain = torch.stack([calibration_error(b, "l1") for b in seen]).mean().item()
    # Of normal noise 2 - sqrt(2) is left; the standard error of either mean is near a thirtieth of it.
    left = torch.stack([debiased_l1_error(b) for b in seen]).mean().item()
    assert left == pytest.approx((2 - math.sqrt(2)) * plain, rel=0.1)


def test_rows_without_noise_have_nothing_to_take_off() -> None:
    sure = bins(torch.ones(9, dtype=torch.float64), torch.arange(9) < 6)
    assert debiased_l1_error(sure).item() == pytest.approx(1 / 3, abs=1e-15)
    assert debiased_squared_error(bins(torch.ones(1), torch.tensor([False]))).item() == 1.0


def test_signed_errors_add_up_to_the_error_and_differ_by_the_mean_gap() -> None:
    c, right = calibrated(50)
    b = bins(c, right)
    over, under = signed_error(b, 1).item(), signed_error(b, -1).item()
    assert min(over, under) > 0
    assert over + under == pytest.approx(calibration_error(b, "l1").item(), rel=1e-12)
    assert over - under == pytest.approx((c - right.double()).mean().item(), abs=1e-12)


def population_error(shift: float) -> float:
    """``l1`` error in 15 bins of endless rows of `calibrated`: the shift, but no one is right less than never."""
    number = 2_000_000
    c = 0.1 + 0.9 * ((torch.arange(number, dtype=torch.float64) + 0.5) / number) ** 0.4
    gaps = torch.zeros(15, dtype=c.dtype).scatter_add_(0, (c * 15).long(), c - (c - shift).clamp(0, 1))
    return (gaps.abs().sum() / number).item()


@pytest.mark.parametrize("number", [30, 300, 10_000])
@pytest.mark.parametrize("shift", [0.0, 0.02, -0.05, 0.3])
def test_the_interval_holds_the_error_of_the_population(number: int, shift: float) -> None:
    repeats, wanted, held = 200, population_error(shift), 0
    for seed in range(repeats):
        interval = error_interval(bins(*calibrated(number, seed=seed, shift=shift)))
        held += interval.lower.item() <= wanted <= interval.upper.item()
    # Two in three standard errors below 95 in 100 are chance.
    assert held / repeats >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / repeats)


def share_held(draw: Callable[[torch.Generator], tuple[Tensor, Tensor]], num_bins: int, wanted: float) -> float:
    """How many of 200 intervals hold an error."""
    held = 0
    for seed in range(200):
        interval = error_interval(bins(*draw(torch.Generator().manual_seed(seed)), num_bins))
        held += interval.lower.item() <= wanted <= interval.upper.item()
    return held / 200


def test_the_interval_knows_that_the_shares_of_the_bins_are_drawn_too() -> None:
    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Half of the rows sure to 0.2, half to 1, and all right: nothing is noise but how many there are of each."""
        c = torch.where(torch.rand(1000, generator=generator) < 0.5, 0.2, 1.0).double()
        return c, c > 0

    assert share_held(draw, 15, 0.4) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 200)


def test_the_interval_knows_that_gaps_may_vary_more_than_hits() -> None:
    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sure to be right where wrong and the other way: gaps of 1 and -1 in one bin, 0 on average."""
        c = (torch.rand(1000, generator=generator) < 0.5).double()
        return c, c < 0.5

    assert share_held(draw, 1, 0.0) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 200)


def test_the_interval_tells_more_the_more_rows_there_are() -> None:
    intervals = [error_interval(bins(*calibrated(number, shift=0.2))) for number in (100, 1600, 25_600)]
    lengths = [(i.upper - i.lower).item() for i in intervals]
    # Sixteen times the rows, a quarter of the length; a little less while the limits are cut at 0 or pseudo-rows count.
    assert all(2.5 < a / b < 5 for a, b in itertools.pairwise(lengths))
    assert intervals[-1].lower > 0.15
    assert all(0 <= i.lower <= i.upper <= 1 for i in intervals)


def test_rows_that_are_all_right_do_not_make_the_interval_sure() -> None:
    interval = error_interval(bins(torch.full((3,), 0.9), torch.ones(3, dtype=torch.bool), 1))
    assert interval.upper - interval.lower > 0.3


def test_every_error_of_nothing_is_nan() -> None:
    empty = ConfidenceCells.empty().in_bins(15)
    errors = [null_error(empty), debiased_squared_error(empty), debiased_l1_error(empty), signed_error(empty, 1)]
    assert all(error.isnan() for error in (*errors, *error_interval(empty)))


def test_the_null_joins_its_normal_limit_without_a_step() -> None:
    n = torch.tensor([3.99e6, 4.01e6], dtype=torch.float64)
    p = torch.full_like(n, 0.5)
    exact, limit = binned_error._mean_absolute_deviation(n, p, n / 4) / n.sqrt()
    assert exact.item() == pytest.approx(limit.item(), rel=1e-6)
