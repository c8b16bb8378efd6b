import pytest
import torch
from torch import Tensor

from logitwatch.functional.row_statistics import row_statistics
from logitwatch.losses.softmax_blocks import exponentials

ABSENT = float("-inf")


def block(classes: int, absent: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = 5 + 4 * torch.randn(6, classes, generator=generator)
    z[:, :absent] = ABSENT
    return z, torch.randint(absent, classes, (6,), generator=generator), torch.tensor([True, False] * 3)


@pytest.mark.parametrize("classes", [3, 700])  # 700: where the two largest are found by blocks
@pytest.mark.parametrize("absent", [0, 2])
def test_the_statistics_are_those_of_the_logits(classes: int, absent: int) -> None:
    z, targets, counted = block(classes, absent)
    expected = row_statistics(z, targets.masked_fill(~counted, -1))
    mask = None if absent == 0 else torch.arange(classes) < absent
    softmax, got = exponentials(z, targets, torch.empty_like(z), absent=mask, counted=counted, statistics=True)
    assert got is not None
    for name in expected._fields:
        # float32 sums in another order, exp2 instead of exp
        torch.testing.assert_close(
            getattr(got, name), getattr(expected, name), rtol=2e-5, atol=2e-6, equal_nan=True, msg=name
        )
    torch.testing.assert_close(z.sum(1), softmax.total)


def test_without_statistics_the_softmax_is_the_same() -> None:
    z, targets, _ = block(700, 0)
    z[0, :9] = torch.linspace(-80, -200, 9)  # where exponentials are subnormal, and where there are none
    other = z.clone()
    with_them, _ = exponentials(z, targets, torch.empty_like(z), statistics=True)
    without, nothing = exponentials(other, targets, torch.empty_like(z))
    assert nothing is None
    assert all(torch.equal(one, other) for one, other in zip(without, with_them, strict=True))
    assert torch.equal(z, other)


def test_huge_logits_do_not_overflow() -> None:
    z = torch.tensor([[1e30, -1e30], [-1e30, -1e30]])
    softmax, _ = exponentials(z, torch.tensor([0, 1]), torch.empty_like(z))
    assert softmax.nll.tolist() == [0.0, pytest.approx(0.6931472)]
