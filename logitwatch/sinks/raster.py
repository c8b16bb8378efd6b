"""A matrix of numbers as a picture, from numpy and zlib alone: no matplotlib, a millisecond, no global state."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["heatmap_pixels", "png"]

# Dark to light with even steps of lightness, so that it reads in grey and for the colour blind.
_ANCHORS = np.array(
    [(12, 20, 69), (38, 70, 137), (36, 125, 145), (72, 173, 122), (170, 210, 90), (253, 240, 160)], float
)
_UNKNOWN = np.array((128, 128, 128), np.uint8)
_SIDE = 320
_LARGEST = 1024


def heatmap_pixels(values: Sequence[Sequence[float]]) -> npt.NDArray[np.uint8]:
    """Pixels of a matrix: the smallest finite value dark, the largest light, whatever is not finite grey.

    Args:
        values: Rows of equal length, any real numbers.

    Returns:
        ``[height, width, 3]`` bytes, every cell a square of equal size; at most 1024 pixels a side, beyond which
        rows or columns are skipped evenly. One grey pixel for an empty matrix.

    Examples:
        >>> pixels = heatmap_pixels([[0.0, 1.0], [float("nan"), 0.5]])
        >>> pixels.shape, pixels[0, 0].tolist(), pixels[-1, 0].tolist()
        ((320, 320, 3), [12, 20, 69], [128, 128, 128])
        >>> heatmap_pixels([]).shape
        (1, 1, 3)
    """
    matrix = np.asarray(values, dtype=float)
    if matrix.ndim != 2 or matrix.size == 0:
        return np.tile(_UNKNOWN, (1, 1, 1))
    matrix = matrix[:: -(-matrix.shape[0] // _LARGEST), :: -(-matrix.shape[1] // _LARGEST)]
    finite = np.isfinite(matrix)
    known = matrix[finite]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    # Halves first: the difference of two finite numbers may not be finite.
    span = high / 2 - low / 2
    shade = (np.where(finite, matrix, low) / 2 - low / 2) / span if span > 0 else np.zeros(matrix.shape)
    place = shade * (len(_ANCHORS) - 1)
    colours = np.stack([np.interp(place, np.arange(len(_ANCHORS)), channel) for channel in _ANCHORS.T], axis=-1)
    pixels = np.where(finite[..., None], colours.round().astype(np.uint8), _UNKNOWN)
    cell = max(1, _SIDE // max(matrix.shape))
    return pixels.repeat(cell, axis=0).repeat(cell, axis=1)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """``[height, width, 3]`` bytes as a PNG file.

    Examples:
        >>> png(heatmap_pixels([[0.0]]))[:8]
        b'\\x89PNG\\r\\n\\x1a\\n'
    """
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 6)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
