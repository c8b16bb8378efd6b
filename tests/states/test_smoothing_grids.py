import pytest
import torch
from torch import Tensor

from logitwatch.functional import numerics
from logitwatch.states import smoothing_grids
from logitwatch.states.smoothing_grids import FINEST, RESOLUTION, SmoothingGrids, grid_intervals


def rows(number: int = 3000) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    c = torch.rand(number, generator=generator, dtype=torch.float64) ** 0.3
    c[:4] = torch.tensor([0.0, 1.0, 0.5, 1 - 2.0**-53])
    counted = torch.rand(number, generator=generator) < 0.8
    return c * counted, (torch.rand(number, generator=generator) < c) & counted, counted


def shared(c: Tensor, values: Tensor, intervals: int) -> Tensor:
    """Values shared between neighbouring points, from the hat functions of all points."""
    points = torch.arange(intervals + 1, dtype=c.dtype)
    return torch.stack([((1 - (c * intervals - point).abs()).clamp(min=0) * values).sum() for point in points])


@pytest.mark.parametrize("bandwidth", [*range(FINEST, 12), 100, 1024])
def test_the_grid_of_every_bandwidth_holds_the_rows_that_count(bandwidth: int) -> None:
    c, right, counted = rows()
    masses, gaps = SmoothingGrids.of(c, right, counted).at(bandwidth)
    intervals = grid_intervals(bandwidth)
    # Products of up to 5120 lose four of sixteen digits of the position, and a point sums up to thousands of rows.
    torch.testing.assert_close(masses, shared(c, 1.0 * counted, intervals).to(masses), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gaps, shared(c, (c - 1.0 * right) * counted, intervals), rtol=1e-10, atol=1e-10)


def test_a_grid_has_ten_intervals_to_a_bandwidth_and_a_thousand_at_least() -> None:
    for bandwidth in range(FINEST, RESOLUTION + 1):
        assert grid_intervals(bandwidth) == max(2000, round(20 / (bandwidth / RESOLUTION))) // 2


def test_many_rows_are_taken_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SmoothingGrids.of(*rows())
    monkeypatch.setattr(smoothing_grids, "chunk_elements", lambda device: 28 * 7)
    parts = SmoothingGrids.of(*rows())
    assert numerics.chunk_elements(torch.device("cpu")) > 28 * 7
    torch.testing.assert_close(parts.points, whole.points, rtol=1e-12, atol=1e-12)
