"""Tensors as plain numbers that JSON can hold, and numbers as words for a title."""

import math
from collections.abc import Sequence

from torch import Tensor

__all__ = ["Number", "drawn", "number", "numbers", "spelled"]

Number = float | None


def number(value: Tensor) -> Number:
    """A tensor of one element as a float; None where it is not finite, since JSON has no NaN.

    Examples:
        >>> import torch
        >>> number(torch.tensor(0.5)), number(torch.tensor(float("nan")))
        (0.5, None)
    """
    plain = float(value)
    return plain if math.isfinite(plain) else None


def numbers(values: Tensor) -> list[Number]:
    """A tensor ``[n]`` as floats; None where it is not finite.

    Examples:
        >>> import torch
        >>> numbers(torch.tensor([0.5, float("nan")]))
        [0.5, None]
    """
    return [plain if math.isfinite(plain) else None for plain in values.tolist()]


def spelled(value: Number) -> str:
    """A fraction or a mean in a title: three decimals, or two digits where these would be nearly nothing.

    Examples:
        >>> spelled(0.04321), spelled(0.00012), spelled(0.0), spelled(None)
        ('0.043', '0.00012', '0.000', '–')
    """
    if value is None:
        return "–"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.00095 else f"{value:.2g}"


def drawn(values: Sequence[Number]) -> list[float]:
    """The numbers as matplotlib takes them: a line is broken at a NaN."""
    return [math.nan if value is None else value for value in values]
