"""Count, sum and sum of squares of a stream of numbers, or of several streams side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype
from logitwatch.states.protocol import merge_fields, summed

__all__ = ["Moments"]


@dataclass(frozen=True)
class Moments:
    r"""Count, sum and sum of squares: mean and variance of one stream ``[]`` or of ``n`` streams ``[n]``.

    .. math:: \bar x = \frac{1}{n} \sum x, \qquad \mathrm{Var} = \frac{1}{n} \sum x^2 - \bar x^2

    Power sums, since they merge by plain addition across any number of ranks. In float64 the variance of float32 data
    is good to a relative error of about ``2e-16 (1 + mean^2 / variance)`` times the square root of the count.

    Examples:
        >>> a, b = Moments.of(torch.tensor([1.0, 2.0])), Moments.of(torch.tensor([3.0]))
        >>> both = a.merge(b)
        >>> both.count.item(), both.mean.item(), round(both.variance.item(), 12)
        (3, 2.0, 0.666666666667)
        >>> Moments.empty().mean.item()
        nan
    """

    count: Tensor = summed()  # int64
    total: Tensor = summed()  # float64
    squares: Tensor = summed()  # float64

    @classmethod
    def empty(cls, streams: int | None = None, *, device: torch.device | str = "cpu") -> Moments:
        """No numbers seen, of one stream or of ``streams`` streams."""
        shape = () if streams is None else (streams,)
        zero = torch.zeros(shape, dtype=accumulator_dtype(torch.device(device)), device=device)
        return cls(torch.zeros(shape, dtype=torch.int64, device=device), zero, zero)

    @classmethod
    def of(cls, values: Tensor, mask: Tensor | None = None, *, dim: int | None = None) -> Moments:
        """Moments of ``values`` along ``dim`` (of all of them where ``dim`` is None).

        Args:
            values: Numbers of any real type.
            mask: True where a number counts; broadcast against ``values``. A masked NaN does no harm.
            dim: The axis that is summed away; the other one, if any, is the streams.

        Returns:
            Moments shaped as ``values`` without ``dim``.
        """
        x = values.detach().to(accumulator_dtype(values.device))
        counted = torch.ones_like(values, dtype=torch.bool) if mask is None else mask.expand(values.shape)
        if mask is not None:
            x = torch.where(counted, x, 0.0)
        axes = tuple(range(x.ndim)) if dim is None else (dim,)
        return cls(counted.sum(axes), x.sum(axes), x.square().sum(axes))

    def merge(self, other: Moments) -> Moments:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def mean(self) -> Tensor:
        """Arithmetic mean, float64; NaN where nothing was seen."""
        return self.total / self.count

    @property
    def variance(self) -> Tensor:
        """Population variance, float64; NaN where nothing was seen."""
        return (self.squares / self.count - self.mean.square()).clamp(min=0)

    @property
    def std(self) -> Tensor:
        """Population standard deviation, float64; NaN where nothing was seen."""
        return self.variance.sqrt()
