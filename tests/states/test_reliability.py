import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from logitwatch.states.confidence_cells import Bins, ConfidenceCells
from logitwatch.states.reliability import BrierDecomposition, decomposed_brier, reliability_of


def bins(c: torch.Tensor, right: torch.Tensor, num_bins: int = 15) -> Bins:
    return ConfidenceCells.of(c, right, torch.ones_like(right)).in_bins(num_bins)


def summed(parts: BrierDecomposition) -> float:
    gained = parts.resolution + parts.within_bin_covariance
    return (parts.reliability + parts.uncertainty + parts.within_bin_variance - gained).item()


@given(
    values=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
    num_bins=st.sampled_from([1, 2, 7, 15, 100, 3600]),
)
def test_the_parts_of_the_brier_score_sum_to_it(values: list[tuple[float, bool]], num_bins: int) -> None:
    c = torch.tensor([value for value, _ in values], dtype=torch.float64)
    right = torch.tensor([hit for _, hit in values])
    parts = decomposed_brier(bins(c, right, num_bins))
    assert parts.brier.item() == pytest.approx((c - right.double()).square().mean().item(), abs=1e-12)
    assert summed(parts) == pytest.approx(parts.brier.item(), abs=1e-12)  # float64 sums


def test_each_part_is_what_its_name_says() -> None:
    generator = torch.Generator().manual_seed(0)
    c = torch.rand(500, generator=generator, dtype=torch.float64)
    right = torch.rand(500, generator=generator) < c.square()
    y, bin_of_row = right.double(), (c * 10).long()
    mean_c, mean_y = (torch.stack([values[bin_of_row == i].mean() for i in range(10)])[bin_of_row] for values in (c, y))
    wanted = BrierDecomposition(
        brier=(c - y).square().mean(),
        reliability=(mean_c - mean_y).square().mean(),
        resolution=mean_y.var(correction=0),
        uncertainty=y.var(correction=0),
        within_bin_variance=(c - mean_c).square().mean(),
        within_bin_covariance=2 * ((c - mean_c) * (y - mean_y)).mean(),
    )
    torch.testing.assert_close(decomposed_brier(bins(c, right, 10)), wanted, rtol=0, atol=1e-12)


def test_nothing_seen_has_no_parts() -> None:
    assert all(part.isnan() for part in decomposed_brier(ConfidenceCells.empty().in_bins(15)))


def test_the_curve_has_the_wilson_interval() -> None:
    curve = reliability_of(bins(torch.full((10,), 0.75), torch.arange(10) < 8, 2))
    assert curve.counts.tolist() == [0, 10]
    assert (curve.confidence[1].item(), curve.accuracy[1].item()) == (0.75, 0.8)
    # Wilson's interval of 8 in 10 at 95 %, as statsmodels and R's binom print it.
    assert curve.lower[1].item() == pytest.approx(0.4901625, abs=1e-7)
    assert curve.upper[1].item() == pytest.approx(0.9433178, abs=1e-7)


@pytest.mark.parametrize("right", [True, False])
def test_the_interval_of_a_bin_all_right_or_all_wrong_ends_at_its_accuracy(right: bool) -> None:
    for n in range(1, 40):
        curve = reliability_of(bins(torch.full((n,), 0.5), torch.full((n,), right), 1))
        assert 0 <= curve.lower[0] <= curve.accuracy[0] <= curve.upper[0] <= 1
