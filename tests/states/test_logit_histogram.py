import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.memory import Peak
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from logitwatch.states import logit_histogram
from logitwatch.states.logit_histogram import LogitHistogram

TINY = 2.0**-149  # smallest subnormal of float32
LARGEST = torch.finfo(torch.float32).max

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
samples = npst.arrays("float32", st.integers(1, 40), elements=st.one_of(finite, st.floats(-20, 20, width=32)))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def recount(values: Tensor, edges: list[float]) -> list[int]:
    """Counts by comparison: a value on an edge belongs away from zero, zero itself to the bucket above."""
    counts = []
    for low, high in pairwise(edges):
        above = values > low if low < 0 else values >= low
        below = values <= high if high < 0 else values < high
        counts.append(int((above & below).sum()))
    return counts


@given(samples)
def test_buckets_count_every_value_between_their_edges(sample: np.ndarray) -> None:
    values = torch.from_numpy(sample)
    counts, edges = LogitHistogram.of(values).buckets(7)
    assert len(counts) <= 7
    assert len(edges) == len(counts) + 1
    assert edges == sorted(set(edges))
    assert all(map(math.isfinite, edges))
    assert counts == recount(values.double(), edges)
    assert sum(counts) == len(values)


@given(samples)
def test_the_midpoint_of_a_cell_is_within_one_part_in_32_of_its_values(sample: np.ndarray) -> None:
    for value in sample.tolist():
        _, (low, high) = LogitHistogram.of(torch.tensor(value)).buckets()
        assert low <= value <= high
        # Below 2 ** -126 cells are 2 ** -130 wide, so half of that is the bound.
        assert abs((low + high) / 2 - value) <= max(abs(value) / 32, 2.0**-131)


@given(samples, st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_quantiles_are_those_of_numpy_to_the_width_of_a_cell(sample: np.ndarray, q: list[float]) -> None:
    estimate = LogitHistogram.of(torch.from_numpy(sample)).quantile(torch.tensor(q, dtype=torch.float64))
    truth = np.quantile(sample.astype("float64"), q)
    # Both neighbours of a quantile are known to a cell, whose width is 1/16 of them or 2 ** -130.
    slack = np.maximum(np.quantile(np.abs(sample.astype("float64")), 1) / 16, 2.0**-130)
    assert (np.abs(estimate.numpy() - truth) <= slack * (1 + 1e-9)).all()


def test_quantiles_of_many_values_are_close_to_the_truth() -> None:
    values = normal(20_000) * 4
    q = torch.tensor([0.001, 0.05, 0.25, 0.5, 0.9, 0.999], dtype=torch.float64)
    truth = torch.quantile(values.double(), q)
    # Values spread evenly enough over a cell that interpolation gains a factor of ten on its width of 1/16.
    torch.testing.assert_close(LogitHistogram.of(values).quantile(q), truth, rtol=1 / 160, atol=0.005)


def test_buckets_are_of_roughly_equal_width_over_the_occupied_range() -> None:
    values = normal(50_000)
    counts, edges = LogitHistogram.of(values).buckets()
    widths = np.diff(edges)
    assert len(counts) == 30
    assert edges[0] <= values.min() < edges[1]
    assert edges[-2] < values.max() <= edges[-1]
    # An edge moves by half a cell at most, and a cell at 4 is 1/4 wide.
    assert abs(widths - widths.mean()).max() <= 0.25


def test_one_bucket_holds_everything() -> None:
    assert LogitHistogram.of(torch.tensor([-1.0, 1.0, 3.0])).buckets(1) == ([3], [-1.0625, 3.125])


def test_a_range_that_is_narrow_beside_its_distance_from_zero_gives_fewer_buckets() -> None:
    counts, edges = LogitHistogram.of(torch.linspace(100, 110, 1000)).buckets(30)
    assert edges == [100.0, 104.0, 108.0, 112.0]
    assert sum(counts) == 1000


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        (0.0, 0.0, 2.0**-130),
        (-0.0, 0.0, 2.0**-130),
        (1.0, 1.0, 1.0625),
        (-1.0, -1.0625, -1.0),
        (TINY, 0.0, 2.0**-130),
        (-TINY, -(2.0**-130), 0.0),
        (2.0**-130, 2.0**-130, 2.0**-129),
        (LARGEST, 2.0**128 * 31 / 32, 2.0**128),
        (-LARGEST, -(2.0**128), -(2.0**128) * 31 / 32),
    ],
)
def test_equal_values_give_one_bucket_that_is_their_cell(value: float, low: float, high: float) -> None:
    assert LogitHistogram.of(torch.full((3,), value)).buckets() == ([3], [low, high])


def test_values_on_both_sides_of_zero_are_parted_at_zero() -> None:
    counts, edges = LogitHistogram.of(torch.tensor([-TINY, 0.0, TINY, -1.0, 1.0])).buckets(2)
    assert counts == [2, 3]
    assert edges == [-1.0625, 0.0, 1.0625]


def test_quantiles_reach_both_ends_of_float32() -> None:
    ends = LogitHistogram.of(torch.tensor([-LARGEST, LARGEST])).quantile(torch.tensor([0.0, 1.0]))
    # Half a cell of 1/32 of 2 ** 128.
    assert ends.tolist() == [-(2.0**128) * 63 / 64, 2.0**128 * 63 / 64]


def test_a_quantile_is_float64_on_the_cpu_in_the_shape_of_the_fractions() -> None:
    seen = LogitHistogram.of(normal(100))
    assert (seen.quantile(0.3).dtype, seen.quantile(0.3).shape) == (torch.float64, ())
    half = seen.quantile(torch.tensor([[0.25], [0.75]], dtype=torch.float16))
    assert (half.dtype, half.shape) == (torch.float64, (2, 1))


def test_nothing_seen_has_no_bucket_and_no_quantile() -> None:
    for nothing in (
        LogitHistogram.empty(),
        LogitHistogram.of(torch.tensor([])),
        LogitHistogram.of(torch.tensor(-torch.inf)),
    ):
        assert nothing.buckets() == ([], [])
        assert nothing.quantile(torch.tensor([0.0, 1.0])).isnan().all()


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000, 0x7FFFFFFF, -0x7FFFFF, -0x400000, -1])
def test_no_nan_counts_as_infinite_whatever_its_payload(bits: int) -> None:
    values = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    assert values.isnan().all()
    seen = LogitHistogram.of(values)
    counts = [seen.nan, seen.positive_infinite, seen.negative_infinite, seen.count]
    assert [c.item() for c in counts] == [1, 0, 0, 0]


def test_what_is_not_finite_is_counted_apart_and_left_out_of_the_sums() -> None:
    seen = LogitHistogram.of(torch.tensor([torch.nan, torch.inf, torch.inf, -torch.inf, 3.0, -1.0]))
    counts = [seen.nan, seen.positive_infinite, seen.negative_infinite, seen.count]
    assert [c.item() for c in counts] == [1, 2, 1, 2]
    assert (seen.total.item(), seen.squares.item()) == (2.0, 10.0)


def test_a_magnitude_beyond_float32_counts_as_infinite() -> None:
    seen = LogitHistogram.of(torch.tensor([1e300, -1e300, 1.0], dtype=torch.float64))
    assert (seen.positive_infinite.item(), seen.negative_infinite.item(), seen.total.item()) == (1, 1, 1.0)


def test_sums_are_those_of_float64() -> None:
    values = normal(70_000) + 1000  # more than one chunk
    seen = LogitHistogram.of(values)
    # 70 thousand additions in float64, pairwise: far below one part in 1e13.
    torch.testing.assert_close(seen.total, values.double().sum(), rtol=1e-13, atol=0)
    torch.testing.assert_close(seen.squares, values.double().square().sum(), rtol=1e-13, atol=0)
    assert seen.count.item() == 70_000


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float16, torch.float64])
def test_any_real_type_counts_as_its_float32(dtype: torch.dtype) -> None:
    values = torch.tensor([0, 1, 1, 7]).to(dtype)
    assert torch.equal(LogitHistogram.of(values).cells, LogitHistogram.of(values.float()).cells)


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="real"):
        LogitHistogram.of(torch.tensor([1j]))


def test_a_mask_counts_only_where_it_is_true_and_broadcasts() -> None:
    values = normal(6, 5)
    values[1] = torch.nan
    mask = torch.tensor([True, False, True, True, False, True])
    seen = LogitHistogram.of(values, mask.unsqueeze(-1))
    expected = LogitHistogram.of(values[mask])
    assert torch.equal(seen.cells, expected.cells)
    assert (seen.total, seen.squares) == (expected.total, expected.squares)


@pytest.mark.parametrize("shape", [(7, 5), (3, 40), (40,), (2, 3, 7), (0, 5), (5, 0)])
@pytest.mark.parametrize("masked", [False, True])
def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], masked: bool) -> None:
    values = normal(*shape)
    mask = normal(*shape[:1], *(1,) * (len(shape) - 1), seed=1) > 0 if masked else None
    whole = LogitHistogram.of(values, mask)
    monkeypatch.setattr(logit_histogram, "CHUNK_ELEMENTS", 16)
    blocks = LogitHistogram.of(values, mask)
    assert torch.equal(blocks.cells, whole.cells)
    # The same numbers in float64, added in another order.
    torch.testing.assert_close((blocks.total, blocks.squares), (whole.total, whole.squares), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("masked", [False, True])
def test_no_more_memory_is_taken_for_more_rows(masked: bool) -> None:
    peaks = []
    for rows in (2, 32):
        values, mask = normal(rows, 65_536), (torch.arange(rows) >= masked).unsqueeze(-1)
        with Peak(values, mask) as peak:
            LogitHistogram.of(values, mask)
        peaks.append(peak.bytes)
    assert peaks[1] < peaks[0] + 3 * 64 * 1024  # the states that are being merged


def test_memory_layout_is_of_no_account() -> None:
    values = normal(8, 6)
    assert torch.equal(LogitHistogram.of(values.T[::2]).cells, LogitHistogram.of(values.T[::2].contiguous()).cells)


@pytest.mark.parametrize("masked", [False, True])
def test_the_way_without_waiting_for_a_device_gives_the_same(masked: bool) -> None:
    values = normal(1000)
    values[::7], values[::11], values[::13] = torch.nan, torch.inf, -torch.inf
    mask = normal(1000, seed=1) > 0 if masked else None
    cells, total, squares = logit_histogram._device_cells(values, mask)
    expected = LogitHistogram.of(values, mask)
    assert torch.equal(cells, expected.cells)
    # The same numbers, added with zeros between them.
    torch.testing.assert_close((total, squares), (expected.total, expected.squares), rtol=1e-13, atol=1e-13)


def test_the_default_device_of_the_process_is_of_no_account() -> None:
    seen = LogitHistogram.of(normal(100))
    buckets, median = seen.buckets(7), seen.quantile(0.5).item()
    for cached in (logit_histogram._edges, logit_histogram._midpoints):
        cached.cache_clear()
    with torch.device("meta"):
        assert seen.buckets(7) == buckets
        assert seen.quantile(torch.tensor(0.5, device="cpu")).item() == median
        assert seen.quantile(0.5).item() == median


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_fraction_outside_zero_to_one_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match=r"q must be in \[0, 1\]"):
        LogitHistogram.of(torch.ones(3)).quantile(q)


def test_no_buckets_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="num_buckets must be >= 1, got 0"):
        LogitHistogram.empty().buckets(0)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.999, 1.0])
def test_the_share_of_the_largest_is_that_of_the_sorted_values(fraction: float) -> None:
    values = normal(1000).abs()
    largest = values.double().sort(descending=True).values[: round(1000 * fraction)].sum()
    share = LogitHistogram.of(values).upper_share(fraction)
    # The midpoint of a cell is within 1/32 of its values, above and below the line.
    assert share.item() == pytest.approx((largest / values.double().sum()).item(), rel=1 / 16)
    assert share.dtype == torch.float64


def test_a_value_counts_in_part_where_the_fraction_ends_in_it() -> None:
    share = LogitHistogram.of(torch.ones(4)).upper_share(0.1)
    assert share.item() == pytest.approx(0.1)


def test_of_no_value_and_of_zeros_there_is_no_share() -> None:
    for nothing in (LogitHistogram.empty(), LogitHistogram.of(torch.zeros(3))):
        assert nothing.upper_share(0.5).isnan()


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_a_share_of_what_is_no_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\], got"):
        LogitHistogram.empty().upper_share(fraction)
