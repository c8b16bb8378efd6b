import importlib

import pytest
import torch
from torch import Tensor

from logitwatch.functional import scores, uncertainty
from logitwatch.functional.row_statistics import (
    CalibrationRows,
    RowStatistics,
    binary_row_statistics,
    calibration_rows,
    row_statistics,
)

# The facade exports the function under the name of its module, so an import statement would find the function.
module = importlib.import_module("logitwatch.functional.row_statistics")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(rows: int, classes: int, *, seed: int = 1) -> Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("classes", [2, 10, 511, 512, 1003, 4096])
def test_it_agrees_with_the_functions_of_one_quantity(classes: int) -> None:
    z, y = normal(20, classes), labels(20, classes)
    rows = row_statistics(z, y)
    expected = {
        "entropy": uncertainty.softmax_entropy(z),
        "confidence": uncertainty.confidence(z),
        "log_partition": uncertainty.log_partition(z),
        "margin": scores.logit_margin(z),
        "nll": scores.nll(z, y),
        "brier": scores.brier_score(z, y),
        "max_logit": z.amax(-1),
        "min_logit": z.amin(-1),
        "mean_logit": z.double().mean(-1).float(),
        "squares": (z.double().var(-1, correction=0) * classes).float(),
        "norm": z.double().norm(dim=-1),
        "correct": z.argmax(-1) == y,
        "prediction": z.argmax(-1),
    }
    for name, value in expected.items():
        # float32 sums of up to 4096 terms in another order.
        torch.testing.assert_close(getattr(rows, name), value, rtol=2e-5, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("rows_at_once", [0, 1, 3, 6, 10, 11])
def test_chunks_leave_no_seam(monkeypatch: pytest.MonkeyPatch, rows_at_once: int, soft: bool) -> None:
    z = normal(11, 7)
    y = normal(11, 7, seed=1).softmax(-1) if soft else labels(11, 7)
    whole = row_statistics(z, y)
    monkeypatch.setattr(module, "chunk_elements", lambda device: rows_at_once * 7)
    for name, a, b in zip(RowStatistics._fields, row_statistics(z, y), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("classes", [3, 512, 513, 600, 1003])
def test_the_two_largest_are_those_of_topk(classes: int) -> None:
    z = normal(30, classes)
    z[:10] = z[:10].round()  # ties
    z[10:15, -1] = 100.0  # the largest in a short last block
    z[15:20, -2:] = torch.tensor([90.0, 91.0])
    top, second, prediction = module.top_two(z)
    assert torch.equal(torch.stack((top, second), -1), z.topk(2).values)
    first = (z == z.amax(-1, keepdim=True)).int().argmax(-1)
    assert torch.equal(prediction, first)


@pytest.mark.parametrize("classes", [4, 700])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_without_a_distribution_is_told_and_spoils_no_other(classes: int, value: float) -> None:
    z, y = normal(5, classes), labels(5, classes)
    expected = row_statistics(z[1:], y[1:])
    z[0, classes // 2] = value
    rows = row_statistics(z, y)
    assert rows.finite.tolist() == [False, True, True, True, True]
    assert rows.confidence[0].isnan()
    assert rows.entropy[0].isnan()
    for name, a, b in zip(RowStatistics._fields, rows, expected, strict=True):
        torch.testing.assert_close(a[1:], b, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_row_whose_classes_are_all_absent_is_not_finite() -> None:
    rows = row_statistics(torch.full((2, 3), -torch.inf), torch.tensor([0, 1]))
    assert not rows.finite.any()
    assert rows.confidence.isnan().all()
    assert rows.classes.tolist() == [0, 0]


def test_moments_and_extrema_are_over_present_classes() -> None:
    rows = row_statistics(torch.tensor([[1.0, -torch.inf, 3.0]]))
    assert (rows.classes.item(), rows.min_logit.item(), rows.mean_logit.item(), rows.squares.item()) == (2, 1, 2, 2)
    assert rows.norm.item() == pytest.approx(10**0.5, rel=1e-7)


def test_one_class_is_certain() -> None:
    rows = row_statistics(torch.tensor([[4.0]]), torch.tensor([0]))
    assert (rows.confidence.item(), rows.entropy.item(), rows.nll.item(), rows.margin.item()) == (1, 0, 0, torch.inf)
    soft = row_statistics(torch.tensor([[4.0]]), torch.tensor([[1.0]]))
    assert (soft.nll.item(), soft.correct.item()) == (0, True)
    for targets in (None, torch.tensor([-100])):
        bare = row_statistics(torch.tensor([[4.0]]), targets)
        assert (bare.confidence.item(), bare.nll.isnan().item(), bare.correct.item()) == (1, True, False)


@pytest.mark.parametrize("target", [-100, -1, 5])
def test_an_index_that_names_no_class_is_no_target(target: int) -> None:
    rows = row_statistics(normal(1, 5), torch.tensor([target]))
    assert rows.nll.isnan()
    assert rows.brier.isnan()
    assert not rows.correct.any()
    assert rows.confidence.isfinite()


def test_without_targets_what_needs_one_is_nan() -> None:
    rows = row_statistics(normal(3, 5))
    assert rows.nll.isnan().all()
    assert rows.brier.isnan().all()
    assert not rows.correct.any()


def test_soft_targets_agree_with_indices_where_they_are_one_hot() -> None:
    z, y = normal(20, 5), labels(20, 5)
    hard, soft = row_statistics(z, y), row_statistics(z, torch.nn.functional.one_hot(y, 5).float())
    for name, a, b in zip(RowStatistics._fields, soft, hard, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_soft_targets_give_their_cross_entropy_and_brier_score() -> None:
    z, q = normal(20, 5), normal(20, 5, seed=1).softmax(-1)
    rows = row_statistics(z, q)
    torch.testing.assert_close(rows.nll, torch.nn.functional.cross_entropy(z, q, reduction="none"))
    torch.testing.assert_close(rows.brier, (z.softmax(-1) - q).square().sum(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64])
def test_soft_targets_of_any_type_are_taken_in_that_of_the_logits(dtype: torch.dtype) -> None:
    z, q = normal(20, 5), torch.nn.functional.one_hot(labels(20, 5), 5).to(dtype)
    if dtype.is_floating_point:
        q = normal(20, 5, seed=1).softmax(-1).to(dtype)
    for a, b in zip(row_statistics(z, q), row_statistics(z, q.float()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_indices_of_any_type_will_do(dtype: torch.dtype) -> None:
    z, y = normal(20, 5), labels(20, 5)
    for a, b in zip(row_statistics(z, y.to(dtype)), row_statistics(z, y), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_soft_targets_that_do_not_add_up_to_one_still_cost_what_torch_says(dtype: torch.dtype) -> None:
    z, q = normal(50, 7), (1.3 * normal(50, 7, seed=1).softmax(-1)).to(dtype)
    expected = torch.nn.functional.cross_entropy(z.double(), q.double(), reduction="none")
    # Sums over seven classes in float32.
    torch.testing.assert_close(row_statistics(z, q).nll.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("classes", [10, 600])
@pytest.mark.parametrize("row", [(3e38, -3e38), (1e20, 0.0), (0.0, -1e30)])
def test_squares_that_overflow_float32_are_taken_in_float64(classes: int, row: tuple[float, float]) -> None:
    z = normal(4, classes)
    z[1, 3:5] = torch.tensor(row)
    rows, wide = row_statistics(z, labels(4, classes)), row_statistics(z.double(), labels(4, classes))
    for name in ("squares", "mean_logit", "norm", "margin", "entropy", "nll"):
        assert torch.equal(getattr(rows, name), getattr(wide, name)), name
    assert rows.norm.isfinite().all()


def test_a_row_that_is_not_finite_is_no_reason_for_float64() -> None:
    z = normal(4, 10)
    z[0, 0], z[1, 0], z[2] = torch.inf, torch.nan, -torch.inf
    assert row_statistics(z).squares.dtype == torch.float32


def test_squares_that_overflow_float64_are_infinite() -> None:
    z = normal(2, 10).double()
    z[0, 0] = 1e200
    assert row_statistics(z).squares.isinf().tolist() == [True, False]


def test_an_absent_target_costs_infinitely_much() -> None:
    rows = row_statistics(torch.tensor([[0.0, -torch.inf]]), torch.tensor([1]))
    assert rows.nll.item() == torch.inf
    assert rows.brier.item() == 2.0


def test_no_rows_give_no_rows() -> None:
    rows = row_statistics(torch.empty(0, 5), torch.empty(0, dtype=torch.int64))
    assert {len(value) for value in rows} == {0}


def test_a_large_offset_costs_no_digit_of_the_spread() -> None:
    z = normal(4, 50).double()
    rows, moved = row_statistics(z), row_statistics(z + 1e6)
    # The offset is rounded to 1e-10 in float64 before anything is computed.
    torch.testing.assert_close(moved.squares, rows.squares, rtol=1e-9, atol=0)
    torch.testing.assert_close(moved.norm, (z + 1e6).norm(dim=-1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("classes", [5, 600])
def test_half_precision_gives_the_numbers_of_the_same_values_in_float32(dtype: torch.dtype, classes: int) -> None:
    z, y = normal(9, classes).to(dtype), labels(9, classes)
    for a, b in zip(row_statistics(z, y), row_statistics(z.float(), y), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("classes", [5, 700])
def test_the_default_device_of_the_process_is_of_no_account(classes: int) -> None:
    z, y = normal(9, classes), labels(9, classes)
    expected = row_statistics(z, y)
    with torch.device("meta"):
        found = row_statistics(z, y)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(3,), (3, 0), (2, 3, 4)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits must be \[rows, classes\] with at least one class"):
        row_statistics(torch.zeros(shape))


def test_a_binary_logit_is_a_choice_between_it_and_zero() -> None:
    z, y = normal(50), labels(50, 2)
    rows = binary_row_statistics(z, y)
    p = z.double().sigmoid()
    torch.testing.assert_close(
        rows.nll, torch.nn.functional.binary_cross_entropy_with_logits(z, y.float(), reduction="none")
    )
    torch.testing.assert_close(rows.confidence, torch.maximum(p, 1 - p).float())
    torch.testing.assert_close(rows.brier, (2 * (p - y).square()).float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rows.margin, z.abs())
    assert torch.equal(rows.prediction, (z > 0).long())
    assert torch.equal(rows.correct, (z > 0) == (y == 1))
    assert torch.equal(rows.max_logit, z)
    assert torch.equal(rows.min_logit, z)
    assert torch.equal(rows.mean_logit, z)
    assert torch.equal(rows.norm, z.double().abs())


def test_a_binary_logit_without_a_target_has_all_that_needs_none() -> None:
    z = normal(10)
    bare, full = binary_row_statistics(z), binary_row_statistics(z, torch.ones(10))
    assert torch.equal(bare.entropy, full.entropy)
    assert bare.nll.isnan().all()
    assert not bare.correct.any()


def test_half_precision_targets_are_lifted_before_they_are_taken_from_one() -> None:
    # 1 - 0.1 in bfloat16 would lose all but eight bits.
    y = torch.full((4,), 0.1, dtype=torch.bfloat16)
    for a, b in zip(binary_row_statistics(normal(4), y), binary_row_statistics(normal(4), y.float()), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("z", [torch.nan, torch.inf])
def test_a_binary_logit_that_is_not_finite_is_told(z: float) -> None:
    rows = binary_row_statistics(torch.tensor([z, 0.0]), torch.tensor([1.0, 1.0]))
    assert rows.finite.tolist() == [False, True]
    assert rows.confidence[0].isnan()


def test_the_callers_autocast_does_not_reach_the_inner_products():
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = row_statistics(logits)
    assert torch.equal(under.entropy, row_statistics(logits).entropy)
    assert torch.equal(under.squares, row_statistics(logits).squares)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 3), (300, 10), (37, 1000), (5, 40_000)])
def test_the_rows_of_calibration_are_those_of_all_statistics_bit_for_bit(
    dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    z = (3 * torch.randn(shape, generator=generator)).round(decimals=1).to(dtype)  # ties too
    for row, value in zip(z[:4], (torch.nan, torch.inf, -torch.inf, 100.0), strict=False):
        row[1] = value
    z[4:5] = -torch.inf
    hard = torch.randint(-1, shape[1] + 1, shape[:1], generator=generator)
    for targets in (hard, torch.rand(shape, generator=generator)):
        whole, part = row_statistics(z, targets), calibration_rows(z, targets)
        wanted = CalibrationRows(whole.confidence, whole.correct, whole.nll, whole.brier)
        torch.testing.assert_close(part, wanted, rtol=0, atol=0, equal_nan=True)


def gradient_norms(z: Tensor, y: Tensor) -> Tensor:
    """By autograd, in float64."""
    leaf = z.double().requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(leaf, y, reduction="sum"), leaf)
    return gradient.norm(dim=-1)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_the_norm_of_the_gradient_is_that_of_autograd(classes: int) -> None:
    z, y = normal(500, classes), labels(500, classes)
    norm, expected = row_statistics(z, y).gradient_norm, gradient_norms(z, y)
    large = expected > 0.01
    # What is left of sums of squares that differ by less than their rounding, as documented.
    torch.testing.assert_close(norm.double()[large], expected[large], rtol=1e-3, atol=0)
    torch.testing.assert_close(
        row_statistics(z.double(), y).gradient_norm, expected, rtol=1e-9, atol=1e-8
    )  # the root of 1e-16


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
@pytest.mark.parametrize("lead", [7.0, 10.0, 14.0, 20.0, 40.0])
def test_the_norm_of_the_gradient_of_a_certain_row_is_small_and_no_noise(classes: int, lead: float) -> None:
    z, y = normal(500, classes), labels(500, classes)
    z[torch.arange(500), y] = z.amax(-1) + lead
    norm, expected = row_statistics(z, y).gradient_norm.double(), gradient_norms(z, y)
    near = (norm / expected - 1).abs() < 0.5
    assert bool((near | ((norm - expected).abs() < 5e-7)).all())


def test_the_norm_of_the_gradient_with_soft_targets_is_that_of_autograd() -> None:
    z, y = normal(50, 10), normal(50, 10, seed=1).softmax(-1)
    # float32 sums of squares.
    torch.testing.assert_close(
        row_statistics(z, y).gradient_norm.double(), gradient_norms(z, y.double()), rtol=1e-5, atol=1e-6
    )
    at_target = row_statistics(z, z.softmax(-1)).gradient_norm
    assert bool((at_target < 1e-3).all())  # not NaN: the square rounds to either side of 0


def test_the_norm_of_the_gradient_knows_its_edges() -> None:
    inf = float("inf")
    z = torch.tensor([[0.0, -inf], [0.0, -inf], [0.0, 0.0], [float("nan"), 0.0]])
    norm = row_statistics(z, torch.tensor([0, 1, -100, 0])).gradient_norm
    assert norm[:2].tolist() == [0.0, pytest.approx(2**0.5)]  # one present class is certain, right or wrong
    assert norm[2:].isnan().all()
