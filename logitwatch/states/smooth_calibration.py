"""SmoothECE and its diagram: calibration smoothed by a Gaussian as wide as the error itself."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.states.smoothing_grids import FINEST, RESOLUTION, SmoothingGrids, grid_intervals

__all__ = ["SmoothReliabilityCurve", "smooth_calibration_error", "smooth_reliability_curve"]

HALVINGS = 10
COARSE = 11  # from this bandwidth on all share one grid
MESH = 200  # the error is a mean over at least this many points, ten to a bandwidth; a curve has this many
FEWEST = 10  # rows in a kernel: of fewer, a curve is noise
FLOOR = 1e-4  # added to the density, in rows


class SmoothReliabilityCurve(NamedTuple):
    """Accuracy as a smooth function of confidence, at 200 points from 0 to 1; each ``[200]`` but the last."""

    confidence: Tensor  # evenly spaced, float64
    accuracy: Tensor  # mean of being right, float64; NaN past the rows, or with fewer than ten in the kernel
    density: Tensor  # of the rows along confidence, float64: its mean over [0, 1] is 1
    bandwidth: Tensor  # standard deviation of the kernel, float64 []


def smooth_calibration_error(grids: SmoothingGrids) -> Tensor:
    """The error at the bandwidth where the two are equal, found by halving; without a branch on a number.

    Args:
        grids: What was seen.

    Returns:
        A fraction, NaN where nothing was seen.
    """
    error = _error_of(grids)
    return torch.where(_seen(grids) > 0, error(_bandwidth(error, grids)), torch.nan)


def smooth_reliability_curve(grids: SmoothingGrids) -> SmoothReliabilityCurve:
    r"""Nadaraya-Watson regression of being right on confidence, at the bandwidth of SmoothECE.

    .. math:: \sum_i K_\sigma(t, c_i) y_i \Big/ \sum_i K_\sigma(t, c_i)

    with the Gaussian and its mirror images in 0 and 1, each cut off half a unit from its centre as in relplot. Rows are
    moved to the grid points beside them, of which a bandwidth holds ten: that is worth less than 1e-3.

    Args:
        grids: What was seen.

    Returns:
        The curve, all NaN where nothing was seen; without a branch on a number.
    """
    bandwidth = _bandwidth(_error_of(grids), grids)
    fine = [_rows_and_hits(grids.at(k), _at(k, bandwidth)) for k in range(FINEST, COARSE)]
    coarse = _rows_and_hits(grids.at(COARSE), bandwidth.clamp(min=COARSE))
    rows, hits = torch.where(bandwidth < COARSE, _chosen(torch.stack(fine), bandwidth), coarse)
    sigma, total = bandwidth / RESOLUTION, _seen(grids)
    mesh = torch.arange(MESH, dtype=rows.dtype, device=rows.device) / (MESH - 1)
    known = (rows * sigma * math.sqrt(2 * math.pi) >= FEWEST) & _in_range(mesh, grids.at(COARSE)[0])
    accuracy = torch.where(known, (hits / rows).clamp(0, 1), torch.nan)
    return SmoothReliabilityCurve(mesh, accuracy, rows / total, torch.where(total > 0, sigma, torch.nan))


def _seen(grids: SmoothingGrids) -> Tensor:
    """The number of rows, to rounding."""
    return grids.at(COARSE)[0].sum()


def _error_of(grids: SmoothingGrids) -> Callable[[Tensor], Tensor]:
    """The error as a function of the bandwidth, in multiples of 1 / 1024."""
    # The path of the halvings depends on the data. The few bandwidths with a grid of their own are all evaluated, the
    # others are evaluated as they come, so that nothing waits for the device.
    fine = torch.stack([_error(grids.at(k), _at(k, grids.points), grid_intervals(k)) for k in range(FINEST, COARSE)])
    spectrum = _spectrum(grids.at(COARSE))

    def error(bandwidth: Tensor) -> Tensor:
        coarse = _smoothed_error(spectrum, bandwidth.clamp(min=COARSE), grid_intervals(COARSE))
        return torch.where(bandwidth < COARSE, _chosen(fine, bandwidth), coarse)

    return error


def _bandwidth(error: Callable[[Tensor], Tensor], grids: SmoothingGrids) -> Tensor:
    """The smallest bandwidth not below its error, in multiples of 1 / 1024."""
    low, high = _at(0, grids.points), _at(RESOLUTION, grids.points)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # A bandwidth of 1 has the error of the finest: whichever way that goes, the finest is where it ends.
        below = middle / RESOLUTION < error(middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def _chosen(fine: Tensor, bandwidth: Tensor) -> Tensor:
    """What belongs to a bandwidth of those with a grid of their own, stacked along the first axis."""
    place = (bandwidth.long() - FINEST).clamp(0, COARSE - FINEST - 1)
    # An index of no dimension would be read on the host.
    return fine.index_select(0, place.unsqueeze(0)).squeeze(0)


def _at(bandwidth: int, like: Tensor) -> Tensor:
    return torch.full((), bandwidth, dtype=like.dtype, device=like.device)


def _error(points: Tensor, bandwidth: Tensor, intervals: int) -> Tensor:
    return _smoothed_error(_spectrum(points), bandwidth, intervals)


def _rows_and_hits(points: Tensor, bandwidth: Tensor) -> Tensor:
    """Smoothed rows and right rows ``[2, 200]``, per unit of confidence."""
    intervals = points.shape[1] - 1
    position = torch.arange(intervals + 1, dtype=points.dtype, device=points.device) / intervals
    hits = points[0] * position - points[1]  # what a row's two shares are moved by cancels
    smoothed = _smoothed(_spectrum(torch.stack((points[0], hits))), bandwidth, intervals)
    index = torch.arange(MESH, dtype=points.dtype, device=points.device)
    return _interpolated(smoothed, index / (MESH - 1) * intervals)


def _in_range(mesh: Tensor, masses: Tensor) -> Tensor:
    """Whether points are among the rows, or no further from them than from each other."""
    position = torch.arange(len(masses), dtype=mesh.dtype, device=mesh.device) / (len(masses) - 1)
    lowest = torch.where(masses > 0, position, torch.inf).amin()
    highest = torch.where(masses > 0, position, -torch.inf).amax()
    return (mesh > lowest - 1 / MESH) & (mesh < highest + 1 / MESH)


def _spectrum(points: Tensor) -> Tensor:
    """The transform of the reflected grid."""
    transform: Tensor = torch.fft.rfft(_reflected(points), n=_length(points))
    return transform


def _reflected(points: Tensor) -> Tensor:
    """The grid between its two mirror images, which keep what the Gaussian would carry past 0 or 1."""
    mirror = points.flip(1)
    return torch.cat((mirror[:, :-1], points, mirror[:, 1:]), 1)


def _length(points: Tensor) -> int:
    """A power of two that holds the three grids: what wraps around stays outside of where the result is read."""
    return 1 << (3 * points.shape[1] - 3).bit_length()


def _smoothed_error(spectrum: Tensor, bandwidth: Tensor, intervals: int) -> Tensor:
    """The mean absolute smoothed gap, from the transform of the masses and gaps; as in relplot, the density counts
    rows."""
    smoothed = _on_mesh(_smoothed(spectrum, bandwidth, intervals), bandwidth)
    inside = _mesh_index(bandwidth, intervals) < _mesh_points(bandwidth)
    return (smoothed[1].abs() * inside).sum() / ((smoothed[0] + FLOOR) * inside).sum()


def _smoothed(spectrum: Tensor, bandwidth: Tensor, intervals: int) -> Tensor:
    """Values ``[2, intervals + 1]`` convolved with the Gaussian, from the transform of their reflection.

    As in relplot, a grid with an odd number of intervals is read half an interval aside.
    """
    sigma, n = bandwidth / RESOLUTION, 2 * (spectrum.shape[1] - 1)
    t = torch.arange(intervals + 1, dtype=sigma.dtype, device=sigma.device) / intervals
    kernel = (-((t - 0.5) / sigma).square() / 2).exp() / (math.sqrt(2 * math.pi) * sigma)
    # Where the kernel is centred on the first point of the middle one of the three grids.
    first = (intervals + 1) // 2 + intervals
    whole: Tensor = torch.fft.irfft(spectrum * torch.fft.rfft(kernel, n=n), n=n)
    return whole[:, first : first + intervals + 1]


def _mesh_points(bandwidth: Tensor) -> Tensor:
    return (10 * RESOLUTION / bandwidth).round().clamp(min=MESH)


def _mesh_index(bandwidth: Tensor, intervals: int) -> Tensor:
    """Indices of as many points as the mesh of any bandwidth on this grid can have."""
    return torch.arange(intervals + 1, dtype=bandwidth.dtype, device=bandwidth.device)


def _on_mesh(values: Tensor, bandwidth: Tensor) -> Tensor:
    """Values ``[..., points]`` interpolated on the mesh; past its end the last one is repeated."""
    intervals = values.shape[-1] - 1
    index = _mesh_index(bandwidth, intervals)
    return _interpolated(values, (index / (_mesh_points(bandwidth) - 1)).clamp(max=1) * intervals)


def _interpolated(values: Tensor, x: Tensor) -> Tensor:
    """Values ``[..., points]`` between the two points beside each place, in intervals."""
    left = x.floor().clamp(max=values.shape[-1] - 2)
    share, left = x - left, left.long()
    return values[..., left] * (1 - share) + values[..., left + 1] * share
