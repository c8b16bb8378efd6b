"""Histogram of any stream of numbers, in cells that never move: the top 13 bits of a float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, reduce
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype, upcast
from logitwatch.states.protocol import merge_fields, summed

__all__ = ["Buckets", "LogitHistogram"]

CELLS = 8192
HALF = CELLS // 2  # cells of one sign
SHIFT = 19  # 32 bits less sign, 8 of exponent and 4 of mantissa
INFINITE = 255 << 4  # within one sign: the cell of infinity; cells above hold NaN, cells below are finite
# Copies in float64 and int32 stay in the cache at this many numbers.
CHUNK_ELEMENTS = 65_536
# On an accelerator some 40 bytes a number are allocated.
DEVICE_ELEMENTS = 4_194_304


class Buckets(NamedTuple):
    """Exact counts between ascending finite edges, one more edge than counts; both empty where nothing was seen.

    A value on an edge counts in the bucket away from zero, and zero itself in the bucket above it.
    """

    counts: list[int]
    edges: list[float]


@dataclass(frozen=True)
class LogitHistogram:
    r"""Counts of values in 16 cells per octave over all of float32, with the sum and sum of squares of finite values.

    A cell is the sign, exponent and first four mantissa bits of the float32 nearest to a value. The layout is the same
    whatever is seen, any two histograms merge, and the midpoint of a cell is within 1/32 of each value in it. Below
    :math:`2^{-126}` the cells have equal width :math:`2^{-130}` instead. Magnitudes beyond float32 count as infinite.

    Read-outs wait for the device and are computed on the CPU, except the counts and sums themselves.

    Examples:
        >>> seen = LogitHistogram.of(torch.tensor([1.0, 2.0, float("nan"), float("-inf")]))
        >>> seen.count.item(), seen.nan.item(), seen.negative_infinite.item(), seen.total.item()
        (2, 1, 1, 3.0)
        >>> seen.buckets(2)
        Buckets(counts=[1, 1], edges=[1.0, 1.5625, 2.125])
        >>> LogitHistogram.empty().quantile(0.5).item()
        nan
    """

    cells: Tensor = summed()  # int64 [8192], in the order of the bits: from -0 down to -NaN, then from 0 up to NaN
    total: Tensor = summed()  # float64
    squares: Tensor = summed()  # float64

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> LogitHistogram:
        """See `State.empty`."""
        zero = torch.zeros((), dtype=accumulator_dtype(torch.device(device)), device=device)
        return cls(torch.zeros(CELLS, dtype=torch.int64, device=device), zero, zero)

    @classmethod
    def of(cls, values: Tensor, mask: Tensor | None = None) -> LogitHistogram:
        """Histogram of all ``values``, any shape and real type.

        Args:
            values: The numbers.
            mask: True where a number counts; broadcast against ``values``.
        """
        x = values.detach()
        count = _host_cells if x.device.type == "cpu" else _device_cells
        blocks = (cls(*count(*block)) for block in _blocks(x, mask))
        return reduce(cls.merge, blocks) if x.numel() else cls.empty(device=x.device)

    def merge(self, other: LogitHistogram) -> LogitHistogram:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def count(self) -> Tensor:
        """Number of finite values, int64."""
        return self.cells.view(2, HALF)[:, :INFINITE].sum()

    @property
    def nan(self) -> Tensor:
        """Number of NaN, int64."""
        return self.cells.view(2, HALF)[:, INFINITE + 1 :].sum()

    @property
    def positive_infinite(self) -> Tensor:
        """Number of ``+inf``, int64."""
        return self.cells[HALF + INFINITE]

    @property
    def negative_infinite(self) -> Tensor:
        """Number of ``-inf``, int64."""
        return self.cells[INFINITE]

    def quantile(self, q: float | Tensor) -> Tensor:
        """Quantile of the finite values by linear interpolation between order statistics, as `numpy.quantile` does.

        Each order statistic is known to its cell, in which the values are taken as evenly spread: it is off by less
        than 1/16 of itself, by at most 1/32 where it is alone in its cell.

        Args:
            q: Fractions in ``[0, 1]``, one or a tensor of them.

        Returns:
            float64 on the CPU, shaped as ``q``; NaN where no finite value was seen.

        Raises:
            ValueError: If a fraction is outside ``[0, 1]``.
        """
        fraction = torch.as_tensor(q, dtype=torch.float64, device="cpu")
        if not bool(((fraction >= 0) & (fraction <= 1)).all()):
            raise ValueError(f"q must be in [0, 1], got {q}")
        below = _below(self.cells.cpu())
        last = int(below[-1]) - 1
        if last < 0:
            return torch.full_like(fraction, torch.nan)
        position = fraction * last
        rank = position.long()
        low, high = _order_statistic(below, rank), _order_statistic(below, (rank + 1).clamp(max=last))
        return torch.lerp(low, high, position - rank)

    def upper_share(self, fraction: float) -> Tensor:
        """Share of the sum that the largest values hold, of values that are all at least 0.

        Args:
            fraction: Which part of the finite values are the largest, in ``[0, 1]``; a value may count in part.

        Returns:
            float64 on the CPU, between ``fraction`` and 1 and within 1/16 of itself; NaN where the sum is 0.

        Raises:
            ValueError: If ``fraction`` is outside ``[0, 1]``.

        Examples:
            >>> round(LogitHistogram.of(torch.tensor([1.0, 1.0, 1.0, 29.0])).upper_share(0.25).item(), 2)
            0.91
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be in [0, 1], got {fraction}")
        counts = self.cells[HALF : HALF + INFINITE].cpu().double().flip(0)
        middles = _midpoints()[INFINITE:].flip(0)
        above = counts.cumsum(0)
        taken = above.clamp(max=fraction * above[-1]).diff(prepend=above.new_zeros(1))
        share: Tensor = taken.dot(middles) / counts.dot(middles)
        return torch.where(self.total.cpu() > 0, share, torch.nan)

    def buckets(self, num_buckets: int = 30) -> Buckets:
        """Exact counts in at most ``num_buckets`` buckets of roughly equal width over the occupied range.

        Each edge is the cell boundary nearest to an equally spaced one, so no cell is divided. Where the range is
        narrow beside its distance from zero, fewer buckets come back than were asked for; equal values give one.

        Args:
            num_buckets: The most buckets to return, ``>= 1``.

        Returns:
            Python numbers. The first and last edges enclose every finite value by less than a cell.

        Raises:
            ValueError: If ``num_buckets`` is less than 1.
        """
        if num_buckets < 1:
            raise ValueError(f"num_buckets must be >= 1, got {num_buckets}")
        below, edges = _below(self.cells.cpu()), _edges()
        total = int(below[-1])
        if total == 0:
            return Buckets([], [])
        first, end = torch.searchsorted(below, below.new_tensor([1, total])).tolist()
        span = edges[first - 1].item(), edges[end].item()
        even = torch.linspace(*span, num_buckets + 1, dtype=torch.float64, device="cpu")
        nearest = torch.searchsorted(_midpoints(), even)
        chosen = torch.unique_consecutive(nearest)
        return Buckets(below[chosen].diff().tolist(), edges[chosen].tolist())


def _bit_cells(x: Tensor) -> Tensor:
    """The cell of each float32, int32 in ``[0, 8192)``."""
    # Adding zero gives -0 the sign of 0, and quiets a NaN whose payload sits in the low bits, where infinity would be.
    return ((x + 0.0).view(torch.int32) >> SHIFT).add_(HALF)


def _blocks(x: Tensor, mask: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The numbers and their part of the mask, flat, so many at a time that nothing the size of ``x`` is allocated."""
    width = prod(x.shape[1:])
    elements = CHUNK_ELEMENTS if x.device.type == "cpu" else DEVICE_ELEMENTS
    rows = max(1, elements // max(1, width))
    counted = None if mask is None else mask.expand(x.shape).reshape(-1, max(1, width))
    x = x.reshape(-1, max(1, width))
    for i in range(0, len(x), rows):
        for j in range(0, width, elements):
            part = None if counted is None else counted[i : i + rows, j : j + elements].reshape(-1)
            yield x[i : i + rows, j : j + elements].reshape(-1), part


def _host_cells(x: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Cells, sum and sum of squares of a flat tensor on the CPU, where looking at a count is free."""
    if counted is not None and not counted.numpy().all():
        x = x[counted]
    cells = torch.bincount(_bit_cells(upcast(x).float()), minlength=CELLS)
    wide = x.double()
    if cells.view(2, HALF)[:, INFINITE:].numpy().any():
        wide = wide[x.float().isfinite()]
    return cells, wide.sum(), wide.dot(wide)


def _device_cells(x: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The same on an accelerator without waiting for it; what the mask leaves out falls into a cell past the end."""
    single = upcast(x).float()
    index = _bit_cells(single).long()
    finite = single.isfinite()
    if counted is not None:
        index, finite = torch.where(counted, index, CELLS), finite & counted
    cells = torch.zeros(CELLS + 1, dtype=torch.int64, device=x.device)
    cells.scatter_add_(0, index, torch.ones_like(index))
    wide = torch.where(finite, x.to(accumulator_dtype(x.device)), 0.0)
    return cells[:CELLS], wide.sum(), wide.square().sum()


def _below(cells: Tensor) -> Tensor:
    """How many finite values lie below each edge of `_edges`, int64 on the CPU."""
    ascending = torch.cat((cells.new_zeros(1), cells[:INFINITE].flip(0), cells[HALF : HALF + INFINITE]))
    return ascending.cumsum(0)


@cache
def _edges() -> Tensor:
    """Boundaries of the finite cells in ascending order, float64; the outermost are ``±2 ** 128``."""
    bits = torch.arange(INFINITE, dtype=torch.int32, device="cpu") << SHIFT
    magnitudes = bits.view(torch.float32).double()
    above_zero = torch.cat((magnitudes[1:], magnitudes.new_tensor([2.0**128])))
    return torch.cat((-above_zero.flip(0), magnitudes[:1], above_zero))


@cache
def _midpoints() -> Tensor:
    """Middle of each finite cell: as many of these lie below a number as the index of the edge nearest to it."""
    return (_edges()[1:] + _edges()[:-1]) / 2


def _order_statistic(below: Tensor, rank: Tensor) -> Tensor:
    """The value of each rank (0 is the smallest), values of one cell being spread evenly over it."""
    end = torch.searchsorted(below, rank, right=True)
    before, low, high = below[end - 1], _edges()[end - 1], _edges()[end]
    return low + (high - low) * ((rank - before + 0.5) / (below[end] - before))
