import math

import pytest
import torch

from logitwatch.states.extrema import Extrema


def test_extrema_are_those_of_every_value() -> None:
    values = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    seen = Extrema.of(values)
    assert (seen.maximum.item(), seen.minimum.item()) == (values.max().item(), values.min().item())


def test_nan_is_passed_over_and_infinities_count() -> None:
    seen = Extrema.of(torch.tensor([math.nan, 1.0, math.inf]))
    assert (seen.maximum.item(), seen.minimum.item()) == (math.inf, 1.0)


def test_nothing_but_nan_is_nothing() -> None:
    seen = Extrema.of(torch.tensor([math.nan]))
    assert (seen.maximum.item(), seen.minimum.item()) == (-math.inf, math.inf)


def test_minima_that_were_reduced_apart_are_used() -> None:
    seen = Extrema.of(torch.tensor([3.0, 5.0]), torch.tensor([-1.0, math.nan]))
    assert (seen.maximum.item(), seen.minimum.item()) == (5.0, -1.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_any_real_type_will_do(dtype: torch.dtype) -> None:
    seen = Extrema.of(torch.tensor([1, 7]).to(dtype))
    assert (seen.maximum.item(), seen.minimum.item()) == (7.0, 1.0)
    assert seen.maximum.dtype == torch.float64
