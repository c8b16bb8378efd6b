import io
import math

import numpy as np
import pytest
from PIL import Image

from logitwatch.sinks.raster import heatmap_pixels, png


def test_the_png_holds_exactly_the_pixels():
    pixels = heatmap_pixels([[0.0, 1.0, 2.0], [3.0, math.inf, 5.0]])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)


def test_larger_is_lighter():
    pixels = heatmap_pixels([list(range(8))]).astype(int).sum(axis=-1)[0]
    assert (np.diff(pixels) >= 0).all()


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_grey_and_moves_no_other_colour(strange):
    plain, marked = heatmap_pixels([[0.0, 1.0, 0.0]]), heatmap_pixels([[0.0, 1.0, strange]])
    third = plain.shape[1] // 3
    assert np.array_equal(plain[:, : 2 * third], marked[:, : 2 * third])
    assert (marked[:, 2 * third :] == 128).all()


@pytest.mark.parametrize("values", [[], [[]], [[math.nan]], [[1.0]], [[1e308, -1e308]], [[5.0] * 3] * 3])
def test_degenerate_matrices_are_drawn_without_a_word(values):
    assert heatmap_pixels(values).dtype == np.uint8


def test_a_huge_matrix_is_kept_to_a_screen():
    assert max(heatmap_pixels(np.zeros((5000, 10))).shape[:2]) <= 1024
