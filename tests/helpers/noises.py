"""Stationary series with a seed of their own, in pure Python."""

import math
import random


def gaussian(count: int, seed: int, memory: float = 0.0) -> list[float]:
    """An autoregression of order one, with mean zero and standard deviation one from the first value on."""
    draw = random.Random(seed)
    values = [draw.gauss(0.0, 1.0)]
    for _ in range(count - 1):
        values.append(memory * values[-1] + math.sqrt(1 - memory**2) * draw.gauss(0.0, 1.0))
    return values


def heavy_tailed(count: int, seed: int) -> list[float]:
    """Student's t with three degrees of freedom over its standard deviation."""
    draw = random.Random(seed)
    return [draw.gauss(0.0, 1.0) / math.sqrt(2 * draw.gammavariate(1.5, 1.0)) for _ in range(count)]
