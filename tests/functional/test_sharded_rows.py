import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import CLASSES, any_logits, batches, finite_logits
from torch import Tensor

from logitwatch.functional.row_statistics import RowStatistics, row_statistics
from logitwatch.functional.sharded_rows import ShardPartials, combine_partials, shard_partials

cuts = st.lists(st.integers(0, CLASSES), max_size=3).map(sorted)
# What is said of a row that is not finite: the rest of it is meaningless.
OF_ANY_ROW = ("max_logit", "prediction", "correct")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def split(z: Tensor, y: Tensor | None, bounds: list[int]) -> ShardPartials:
    """What the shards between these bounds know, stacked in the order of classes."""
    edges = [0, *bounds, z.shape[1]]
    shards = [shard_partials(z[:, low:high], y, offset=low) for low, high in pairwise(edges)]
    return ShardPartials(*map(torch.stack, zip(*shards, strict=True)))


def assert_same_rows(found: RowStatistics, expected: RowStatistics, *, atol: float = 1e-6) -> None:
    """Equal to a few roundings of float32; of rows that are not finite only what means something."""
    finite = expected.finite
    for name, a, b in zip(RowStatistics._fields, found, expected, strict=True):
        assert a.dtype == (b.dtype if name in ("correct", "prediction") else torch.float32), name
        if name not in OF_ANY_ROW:
            a, b = a[finite], b[finite]
        # Deviations are squared: their size is that of the largest square.
        scale = max(1.0, b.double().abs().max().item()) if name == "squares" and len(b) else 1.0
        torch.testing.assert_close(
            a.double(),
            b.double(),
            rtol=1e-5,
            atol=atol * scale,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@given(batch=batches(elements=any_logits), bounds=cuts)
def test_shards_in_order_make_the_row_however_it_is_split(batch: tuple[Tensor, Tensor], bounds: list[int]) -> None:
    z, y = batch
    # Entropies are differences of numbers up to 200 in float32.
    assert_same_rows(combine_partials(split(z, y, bounds)), row_statistics(z, y), atol=3e-5)


@given(batch=batches(elements=finite_logits), bounds=cuts)
def test_extremes_and_predictions_keep_every_bit(batch: tuple[Tensor, Tensor], bounds: list[int]) -> None:
    z, y = batch
    found, expected = combine_partials(split(z, y, bounds)), row_statistics(z, y)
    for name in ("max_logit", "min_logit", "margin", "classes", "prediction", "correct"):
        if name == "margin":  # rounded once in each shard and once in the end
            torch.testing.assert_close(found.margin, expected.margin, rtol=3e-7, atol=0)
            assert torch.equal(found.margin == 0, expected.margin == 0)
        else:
            assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("classes", [7, 700])
@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_wide_rows_in_any_precision_over_any_number_of_shards(classes: int, shards: int, dtype: torch.dtype) -> None:
    z = (4 * normal(40, classes)).to(dtype)
    y = torch.randint(classes, (40,), generator=torch.Generator().manual_seed(1))
    bounds = [min(classes, i * math.ceil(classes / shards)) for i in range(1, shards)]
    assert_same_rows(combine_partials(split(z, y, bounds)), row_statistics(z.float(), y))


def test_without_targets_what_needs_one_is_nan() -> None:
    found = combine_partials(split(normal(5, 6), None, [2]))
    assert found.nll.isnan().all()
    assert found.brier.isnan().all()
    assert not found.correct.any()
    assert found.entropy.isfinite().all()


@pytest.mark.parametrize("target", [-100, -1, 6])
def test_an_index_that_names_no_class_is_nobodys_target(target: int) -> None:
    # An empty last shard begins where the classes end: 6 is not its class either.
    found = combine_partials(split(normal(1, 6), torch.tensor([target]), [3, 6]))
    assert found.nll.isnan()
    assert not found.correct.any()


def test_a_tie_between_shards_has_no_margin_and_goes_to_the_first_class() -> None:
    z = torch.tensor([[0.0, 3.0, 1.0, 3.0]])
    found = combine_partials(split(z, torch.tensor([3]), [2]))
    assert (found.margin.item(), found.prediction.item(), found.correct.item()) == (0.0, 1, False)


def test_a_shard_whose_classes_are_all_absent_changes_nothing() -> None:
    z = torch.cat((torch.full((4, 3), -torch.inf), normal(4, 2)), dim=1)
    y = torch.tensor([3, 4, 0, 1])
    found = combine_partials(split(z, y, [3]))
    assert_same_rows(found, row_statistics(z, y))
    assert found.nll[2:].tolist() == [torch.inf, torch.inf]
    assert combine_partials(split(z[:, :3], y, [1])).finite.sum() == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("column", [0, 3])
def test_what_is_not_finite_in_one_shard_is_not_finite_in_the_row(value: float, column: int) -> None:
    z = normal(2, 4)
    z[0, column] = value
    found = combine_partials(split(z, torch.tensor([0, 1]), [2]))
    assert found.finite.tolist() == [False, True]
    assert found.confidence[0].isnan()
    assert found.prediction[0] == column


def test_a_large_offset_costs_no_digit_of_what_does_not_move_with_it() -> None:
    # In steps of 1/8 the shifted logits are exact in float32.
    z, y = (normal(20, 50) * 8).round() / 8, torch.arange(20)
    found, moved = (combine_partials(split(x, y, [20, 30])) for x in (z, z + 1e5))
    for name in ("entropy", "confidence", "margin", "nll", "collision", "squares"):
        torch.testing.assert_close(getattr(moved, name), getattr(found, name), rtol=1e-6, atol=1e-6, msg=name)


def test_even_odds_are_exact_so_that_they_fall_into_one_cell_whatever_the_split() -> None:
    for classes in (2, 4, 8):
        found = combine_partials(split(torch.full((1, classes), 0.3), torch.tensor([0]), [1]))
        assert found.confidence.item() == 1 / classes


def test_nothing_the_size_of_the_logits_is_made() -> None:
    # 40 rows of 131072 classes are read a chunk of one row at a time; the default chunk on a CPU is as large as a row.
    z = normal(40, 131_072)
    largest = 0

    class Sizes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.untyped_storage().data_ptr() != z.untyped_storage().data_ptr():
                largest = max(largest, result.numel())
            return result

    with Sizes():
        shard_partials(z, torch.zeros(40, dtype=torch.int64), offset=0)
    assert 0 < largest <= 131_072


def test_no_rows_give_no_rows_and_no_classes_give_rows() -> None:
    assert {len(values) for values in shard_partials(torch.empty(0, 4))} == {0}
    assert {len(values) for values in combine_partials(split(torch.empty(0, 4), None, [2]))} == {0}
    nothing = shard_partials(torch.empty(3, 0), torch.tensor([0, 1, 2]), offset=3)
    assert nothing.classes.tolist() == [0, 0, 0]
    assert nothing.target_logit.isnan().all()


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"logits must be \[rows, classes\]"):
        shard_partials(torch.zeros(2, 3, 4))
