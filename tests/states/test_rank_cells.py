import torch
from torch import Tensor

from logitwatch.states import rank_cells
from logitwatch.states.rank_cells import RANK_CELLS, RankCells, lower_edges


def spread_out(number: int = 20_000) -> Tensor:
    """Confidences of every size, near 0, a half and 1 too, in float64."""
    generator = torch.Generator().manual_seed(0)
    odds = 30 * torch.randn(number, generator=generator, dtype=torch.float64)
    ends = torch.tensor([0.0, 1e-300, 2.0**-20, 0.5, 1 - 2.0**-24, 1 - 2.0**-53, 1.0], dtype=torch.float64)
    return torch.cat((odds.sigmoid(), 0.5 + odds * 1e-10, ends))


def test_cells_are_in_order_of_confidence() -> None:
    cells = rank_cells._cell(spread_out().sort().values)
    assert (cells.diff() >= 0).all()
    assert (cells[0], cells[-1]) == (0, RANK_CELLS - 1)


def test_a_row_is_between_the_edges_of_its_cell() -> None:
    c = spread_out()
    edges = torch.cat((lower_edges(c.device), torch.ones(1, dtype=c.dtype)))
    assert (edges.diff() >= 0).all()  # 0 for the cell of a half alone
    cell = rank_cells._cell(c)
    assert (edges[cell] <= c).all()
    assert (c <= edges[cell + 1]).all()


def test_edges_within_a_cell_are_a_sixty_fourth_apart_in_odds() -> None:
    odds = lower_edges(torch.device("cpu"))[1:].logit()
    # Within a part of a doubling of c or 1 - c; the odds of c near a half grow twice as fast.
    assert odds.diff().max() < 2 / 64


def test_a_half_is_alone_in_its_cell() -> None:
    near = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
    near[0], near[2] = torch.nextafter(near[0], near[0] * 0), torch.nextafter(near[0], near[0] + 1)
    assert rank_cells._cell(near).diff().tolist() == [1, 1]


def test_a_device_without_float64_finds_the_same_cells() -> None:
    c = spread_out().float()
    assert torch.equal(rank_cells._cell(c), rank_cells._cell(c.double()))
    values = rank_cells._value(torch.arange(9), 20, torch.float32)
    assert values.tolist() == [2.0**-21 * (1 + i / 64) for i in range(9)]


def test_sums_are_those_of_the_rows_that_count() -> None:
    c, generator = spread_out(), torch.Generator().manual_seed(1)
    right, counted = (torch.rand(len(c), generator=generator) < share for share in (0.6, 0.8))
    c, right = c * counted, right & counted
    seen = RankCells.of(c, right, counted)
    assert torch.equal(seen.misses, RankCells.of(c * ~right, right & ~right, counted & ~right).rows)
    assert (seen.rows.sum(), seen.hits.sum()) == (counted.sum(), right.sum())
    assert torch.equal(seen.rows, seen.hits + seen.misses)
    wanted = torch.stack((c[~right].sum(), c[right].sum()))
    torch.testing.assert_close(seen.confidences.sum(1), wanted, rtol=1e-12, atol=0)
    torch.testing.assert_close(seen.gaps.sum(), (c - 1.0 * right).sum(), rtol=1e-12, atol=0)
