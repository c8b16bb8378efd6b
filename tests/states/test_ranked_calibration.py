import pytest
import torch
from torch import Tensor

from logitwatch.states import rank_cells
from logitwatch.states.rank_cells import RankCells, lower_edges
from logitwatch.states.ranked_calibration import equal_mass_error, kolmogorov_smirnov, kuiper


def cells(c: Tensor, right: Tensor) -> RankCells:
    return RankCells.of(c, right, torch.ones_like(right))


def apart(number: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Confidences no two of which share a cell, in no order, and whether right."""
    generator = torch.Generator().manual_seed(seed)
    edges = lower_edges(torch.device("cpu"))
    middles = ((edges[1:] + edges[:-1]) / 2)[edges.diff() > 0]
    c = middles[torch.randperm(len(middles), generator=generator)[:number]]
    return c, torch.rand(number, generator=generator) < c - 0.1


def crowded(number: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Confidences as a trained network has them, many to a cell."""
    generator = torch.Generator().manual_seed(seed)
    c = (3 * torch.randn(number, generator=generator, dtype=torch.float64) + 3).abs().sigmoid()
    return c, torch.rand(number, generator=generator) < c - 0.05


def by_sorting(c: Tensor, right: Tensor, num_bins: int) -> float:
    """Equal-mass error of rows whose number the bins divide, one order of equal confidences being as good as another
    where there are none."""
    order = c.argsort()
    gaps = (c - right.double())[order].view(num_bins, -1).sum(1)
    return (gaps.abs().sum() / len(c)).item()


def partial_sums(c: Tensor, right: Tensor) -> Tensor:
    gaps = (c - right.double())[c.argsort()].cumsum(0) / len(c)
    return torch.cat((gaps.new_zeros(1), gaps))


@pytest.mark.parametrize("num_bins", [1, 2, 15, 50])
def test_bins_of_equal_mass_are_exact_where_rows_do_not_share_a_cell(num_bins: int) -> None:
    c, right = apart(1500)
    found = equal_mass_error(cells(c, right), num_bins)
    assert found.value.item() == pytest.approx(by_sorting(c, right, num_bins), abs=1e-12)  # float64 sums
    assert found.error.item() < 1e-5  # a cut may miss the edge between two rows by a rounding


@pytest.mark.parametrize("num_bins", [2, 15, 100])
@pytest.mark.parametrize("number", [300, 30_000])
def test_bins_of_equal_mass_are_within_the_certified_error(number: int, num_bins: int) -> None:
    for seed in range(10):
        c, right = crowded(number, seed=seed)
        found = equal_mass_error(cells(c, right), num_bins)
        difference = abs(found.value.item() - by_sorting(c, right, num_bins))
        assert difference <= found.error.item() + 1e-12
        # It is certified as small enough to mean something: cuts go through 1 row in 150.
        assert found.error.item() < 0.01 * num_bins


def test_a_row_that_bins_divide_between_them_is_shared() -> None:
    c, right = torch.tensor([0.2, 0.6, 0.9]), torch.tensor([False, True, True])
    # Bins of one and a half rows: 0.2 and half of -0.4; the other half and -0.1.
    assert equal_mass_error(cells(c, right), 2).value.item() == pytest.approx((0.0 + 0.3) / 3, abs=1e-7)
    # As many bins as parts of a row: each row is its own bin.
    assert equal_mass_error(cells(c, right), 300).value.item() == pytest.approx(0.7 / 3, abs=1e-7)


def test_no_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="num_bins must be >= 1, got 0"):
        equal_mass_error(RankCells.empty(), 0)


def test_partial_sums_are_exact_where_rows_do_not_share_a_cell() -> None:
    c, right = apart(1500)
    sums, seen = partial_sums(c, right), cells(c, right)
    assert kolmogorov_smirnov(seen).value.item() == pytest.approx(sums.abs().max().item(), abs=1e-12)
    assert kuiper(seen).value.item() == pytest.approx((sums.max() - sums.min()).item(), abs=1e-12)


@pytest.mark.parametrize("number", [10, 300, 30_000])
def test_partial_sums_are_certified_from_above(number: int) -> None:
    for seed in range(10):
        c, right = crowded(number, seed=seed)
        sums, seen = partial_sums(c, right), cells(c, right)
        for found, wanted in (
            (kolmogorov_smirnov(seen), sums.abs().max().item()),
            (kuiper(seen), (sums.max() - sums.min()).item()),
        ):
            assert found.value.item() - 1e-12 <= wanted <= (found.value + found.error).item() + 1e-12
            assert found.error.item() < 0.12 if number == 10 else found.error.item() < 0.01


def test_the_worst_order_within_a_cell_is_what_is_certified() -> None:
    c, right = torch.full((4,), 0.75, dtype=torch.float64), torch.tensor([True, True, True, False])
    seen = cells(c, right)
    assert kolmogorov_smirnov(seen).value.item() == 0.0
    # The wrong one first: 0.75 / 4; the right ones first: -3 * 0.25 / 4.
    assert kolmogorov_smirnov(seen).error.item() == pytest.approx(0.75 / 4)
    assert kuiper(seen).error.item() == pytest.approx(1.5 / 4)


def test_gaps_of_opposite_sign_cancel_for_ks_and_less_for_kuiper() -> None:
    # Summed gaps, in order of confidence: 20, then 60 - 100, then 95.
    c = torch.tensor([0.6] * 100 + [0.7] * 100 + [0.95] * 100, dtype=torch.float64)
    right = torch.cat((torch.arange(100) < 40, torch.arange(100) >= 0, torch.arange(100) < 0))
    seen = cells(c, right)
    assert kolmogorov_smirnov(seen).value.item() == pytest.approx((20 - 30 + 95) / 300, abs=1e-12)
    assert kuiper(seen).value.item() == pytest.approx((20 - 30 + 95 + 10) / 300, abs=1e-12)


def test_nothing_seen_has_no_error() -> None:
    for found in (
        equal_mass_error(RankCells.empty(), 15),
        kolmogorov_smirnov(RankCells.empty()),
        kuiper(RankCells.empty()),
    ):
        assert found.value.isnan()
        assert found.error.isnan()


def test_the_bound_knows_how_wide_cells_are() -> None:
    # All right: only confidence can be apart from its share.
    edges = lower_edges(torch.device("cpu"))
    c = edges[1345] + torch.tensor([0.1, 0.9]) * (edges[1346] - edges[1345])
    assert rank_cells._cell(c).tolist() == [1345, 1345]
    found = equal_mass_error(cells(c, c > 0), 2)
    assert abs(found.value.item() - by_sorting(c, c > 0, 2)) <= found.error.item()
    assert 0 < found.error.item() < 0.003
