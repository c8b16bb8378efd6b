"""SmoothECE: calibration error smoothed by a Gaussian as wide as the error itself."""

import math

import torch
from torch import Tensor

from logitwatch.states.smoothing_grids import FINEST, RESOLUTION, SmoothingGrids, grid_intervals

__all__ = ["smooth_calibration_error"]

HALVINGS = 10
COARSE = 11  # from this bandwidth on all share one grid
MESH = 200  # the error is a mean over at least this many points, ten to a bandwidth
FLOOR = 1e-4  # added to the density, in rows


def smooth_calibration_error(grids: SmoothingGrids) -> Tensor:
    """The error at the bandwidth where the two are equal, found by halving; without a branch on a number.

    Args:
        grids: What was seen.

    Returns:
        A fraction, NaN where nothing was seen.
    """
    # The path of the halvings depends on the data. The few bandwidths with a grid of their own are all evaluated, the
    # others are evaluated as they come, so that nothing waits for the device.
    fine = torch.stack([_error(grids.at(k), _at(k, grids.points), grid_intervals(k)) for k in range(FINEST, COARSE)])
    coarse_points = grids.at(COARSE)
    spectrum = torch.fft.rfft(_reflected(coarse_points), n=_length(coarse_points))

    def error(bandwidth: Tensor) -> Tensor:
        coarse = _smoothed_error(spectrum, bandwidth.clamp(min=COARSE), grid_intervals(COARSE))
        place = (bandwidth.long() - FINEST).clamp(0, COARSE - FINEST - 1)
        # An index of no dimension would be read on the host.
        return torch.where(bandwidth < COARSE, fine.gather(0, place.unsqueeze(0)).squeeze(0), coarse)

    low, high = _at(0, grids.points), _at(RESOLUTION, grids.points)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # A bandwidth of 1 has the error of the finest: whichever way that goes, the finest is where it ends.
        below = middle / RESOLUTION < error(middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(coarse_points[0].sum() > 0, error(high), torch.nan)


def _at(bandwidth: int, like: Tensor) -> Tensor:
    return torch.full((), bandwidth, dtype=like.dtype, device=like.device)


def _error(points: Tensor, bandwidth: Tensor, intervals: int) -> Tensor:
    return _smoothed_error(torch.fft.rfft(_reflected(points), n=_length(points)), bandwidth, intervals)


def _reflected(points: Tensor) -> Tensor:
    """The grid between its two mirror images, which keep what the Gaussian would carry past 0 or 1."""
    mirror = points.flip(1)
    return torch.cat((mirror[:, :-1], points, mirror[:, 1:]), 1)


def _length(points: Tensor) -> int:
    """A power of two that holds the three grids: what wraps around stays outside of where the result is read."""
    return 1 << (3 * points.shape[1] - 3).bit_length()


def _smoothed_error(spectrum: Tensor, bandwidth: Tensor, intervals: int) -> Tensor:
    """The mean absolute smoothed gap, from the transform of the reflected masses and gaps.

    As in relplot, a grid with an odd number of intervals is read half an interval aside, and the density counts rows.
    """
    sigma, n = bandwidth / RESOLUTION, 2 * (spectrum.shape[1] - 1)
    t = torch.arange(intervals + 1, dtype=sigma.dtype, device=sigma.device) / intervals
    kernel = (-((t - 0.5) / sigma).square() / 2).exp() / (math.sqrt(2 * math.pi) * sigma)
    # Where the kernel is centred on the first point of the middle one of the three grids.
    first = (intervals + 1) // 2 + intervals
    whole = torch.fft.irfft(spectrum * torch.fft.rfft(kernel, n=n), n=n)
    smoothed = _on_mesh(whole[:, first : first + intervals + 1], bandwidth)
    inside = _mesh_index(bandwidth, intervals) < _mesh_points(bandwidth)
    return (smoothed[1].abs() * inside).sum() / ((smoothed[0] + FLOOR) * inside).sum()


def _mesh_points(bandwidth: Tensor) -> Tensor:
    return (10 * RESOLUTION / bandwidth).round().clamp(min=MESH)


def _mesh_index(bandwidth: Tensor, intervals: int) -> Tensor:
    """Indices of as many points as the mesh of any bandwidth on this grid can have."""
    return torch.arange(intervals + 1, dtype=bandwidth.dtype, device=bandwidth.device)


def _on_mesh(values: Tensor, bandwidth: Tensor) -> Tensor:
    """Values ``[..., points]`` interpolated on the mesh; past its end the last one is repeated."""
    intervals = values.shape[-1] - 1
    index = _mesh_index(bandwidth, intervals)
    x = (index / (_mesh_points(bandwidth) - 1)).clamp(max=1) * intervals
    left = x.floor().clamp(max=intervals - 1)
    share, left = x - left, left.long()
    return values[..., left] * (1 - share) + values[..., left + 1] * share
