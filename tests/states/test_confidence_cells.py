import pytest
import torch
from torch import Tensor

from logitwatch.states import confidence_cells
from logitwatch.states.confidence_cells import CELLS, ConfidenceCells


def test_each_edge_belongs_to_the_cell_above_it_and_one_to_the_last() -> None:
    edges = torch.arange(CELLS + 1, dtype=torch.float64) / CELLS
    cells = confidence_cells._cell(edges)
    assert torch.equal(cells, torch.arange(CELLS + 1).clamp(max=CELLS - 1))
    below = torch.nextafter(edges[1:], torch.zeros((), dtype=torch.float64))
    assert torch.equal(confidence_cells._cell(below), torch.arange(CELLS))


def test_the_quick_way_for_float32_finds_the_cells_that_a_search_of_the_edges_finds() -> None:
    edges = torch.arange(CELLS + 1, dtype=torch.float64).div(CELLS).float()
    near = [edges, *(torch.nextafter(edges, torch.tensor(end)) for end in (0.0, 1.0))]
    c = torch.cat([*near, torch.rand(100_000, generator=torch.Generator().manual_seed(0))])
    assert torch.equal(confidence_cells._cell(c), confidence_cells._cell(c.double()))


def rows(number: int = 500) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    c = torch.rand(number, generator=generator, dtype=torch.float64)
    counted = torch.rand(number, generator=generator) < 0.8
    return c * counted, (torch.rand(number, generator=generator) < c) & counted, counted


@pytest.mark.parametrize("num_bins", [1, 15, 3600])
def test_bins_hold_the_sums_of_the_rows_that_count(num_bins: int) -> None:
    c, right, counted = rows()
    bins = ConfidenceCells.of(c, right, counted).in_bins(num_bins)
    bin_of_row = (c * num_bins).long()
    for i in bin_of_row.unique():
        mine = (bin_of_row == i) & counted
        assert bins.counts[i] == mine.sum()
        assert bins.hits[i] == (mine & right).sum()
        sums = (bins.confidences[i], bins.squares[i], bins.hit_confidences[i], bins.squared_gaps[i])
        wanted = (c[mine].sum(), c[mine].square().sum(), c[mine & right].sum(), (c - 1.0 * right)[mine].square().sum())
        torch.testing.assert_close(sums, wanted, rtol=1e-12, atol=1e-12)  # other orders of the same float64 sums


def test_gaps_and_null_variances_are_those_of_the_rows() -> None:
    c, right, counted = rows()
    bins = ConfidenceCells.of(c, right, counted).in_bins(1)
    torch.testing.assert_close(bins.gaps.sum(), (c - 1.0 * right)[counted].sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(bins.null_variances.sum(), (c * (1 - c))[counted].sum(), rtol=1e-12, atol=0)


def test_a_null_variance_is_never_negative() -> None:
    c = torch.ones(9, dtype=torch.float64) - 1e-17
    assert ConfidenceCells.of(c, c > 0, c > 0).in_bins(15).null_variances.min() >= 0


@pytest.mark.parametrize("num_bins", [0, CELLS + 1])
def test_bins_finer_than_the_cells_or_none_are_refused(num_bins: int) -> None:
    with pytest.raises(ValueError, match=rf"num_bins must be in \[1, 3600\], got {num_bins}"):
        ConfidenceCells.empty().in_bins(num_bins)
