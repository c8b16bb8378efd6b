import pytest
import torch
from torch import Tensor

from logitwatch.states.moments import Moments


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_mean_and_variance_are_those_of_float64() -> None:
    values = normal(1000) + 50
    seen = Moments.of(values)
    # Power sums lose (mean / std) ** 2 = 2500 units of 1e-16.
    torch.testing.assert_close(seen.mean, values.double().mean(), rtol=1e-14, atol=0)
    torch.testing.assert_close(seen.variance, values.double().var(correction=0), rtol=1e-11, atol=0)
    assert seen.std.item() == seen.variance.sqrt().item()


def test_counts_are_int64_with_and_without_a_mask() -> None:
    values = torch.ones(3)
    assert Moments.of(values).count.dtype == Moments.of(values, values > 0).count.dtype == torch.int64


def test_a_masked_nan_does_no_harm() -> None:
    seen = Moments.of(torch.tensor([1.0, torch.nan, 3.0]), torch.tensor([True, False, True]))
    assert (seen.count.item(), seen.mean.item()) == (2, 2.0)


def test_a_mask_broadcasts() -> None:
    seen = Moments.of(torch.tensor([[1.0, 2.0], [5.0, 6.0]]), torch.tensor([[True], [False]]))
    assert (seen.count.item(), seen.total.item()) == (2, 3.0)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_streams_lie_on_the_axis_that_is_kept(dim: int) -> None:
    values = normal(4, 6)
    seen = Moments.of(values, dim=dim)
    torch.testing.assert_close(seen.mean, values.double().mean(dim), rtol=1e-13, atol=1e-13)
    assert seen.count.tolist() == [values.shape[dim]] * len(seen.mean)


def test_what_was_not_seen_is_nan() -> None:
    empty = Moments.empty(2)
    assert empty.mean.isnan().all()
    assert empty.variance.isnan().all()


def test_the_variance_of_equal_values_is_not_negative() -> None:
    assert Moments.of(torch.full((7,), 0.1)).variance.item() == pytest.approx(0, abs=1e-16)
    assert Moments.of(torch.full((7,), 1e8 + 0.1, dtype=torch.float64)).variance.item() >= 0
