import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from logitwatch.functional.positive_rows import positive_rows
from logitwatch.states.calibration_sketch import CalibrationSketch


def answers(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(*shape, generator=generator)
    return z, (torch.rand(*shape, generator=generator) < (z / 2).sigmoid()).long()


def test_the_rows_are_sigmoid_target_and_loss() -> None:
    z, y = answers(200)
    rows = positive_rows(z, y)
    assert torch.equal(rows.confidence, z.sigmoid())
    assert torch.equal(rows.correct, y == 1)
    torch.testing.assert_close(rows.nll, F.binary_cross_entropy_with_logits(z, y.float(), reduction="none"))
    torch.testing.assert_close(rows.brier, 2 * (z.sigmoid() - y).square())


def test_each_label_of_each_example_is_a_row() -> None:
    z, y = answers(8, 5)
    y[0, 0] = -100
    seen = CalibrationSketch.of_rows(*positive_rows(z, y))
    assert seen.count.item() == 39
    assert seen.ignored.item() == 1
    kept = y != -100
    assert seen.accuracy().item() == pytest.approx(y[kept].double().mean().item(), rel=1e-12)
    assert seen.mean_confidence().item() == pytest.approx(z[kept].double().sigmoid().mean().item(), rel=1e-6)


def test_odd_rows_are_counted_where_they_belong() -> None:
    z = torch.tensor([math.nan, math.inf, -math.inf, 0.0, 0.0, 0.0, 1.0])
    y = torch.tensor([0, 0, 0, 2, -1, -100, 1])
    seen = CalibrationSketch.of_rows(*positive_rows(z, y))
    # -inf is a sure no; the other two say nothing.
    assert [n.item() for n in (seen.count, seen.nonfinite, seen.bad_target, seen.ignored)] == [2, 2, 2, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted(dtype: torch.dtype) -> None:
    z, y = answers(100)
    low, high = positive_rows(z.to(dtype), y), positive_rows(z.to(dtype).float(), y)
    assert all(torch.equal(a, b) for a, b in zip(low, high, strict=True))


def test_logits_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape of logits, \\(4, 3\\), got \\(4,\\)"):
        positive_rows(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
