import pytest
import torch

from logitwatch.losses.inputs import (
    check_logits,
    class_weights,
    counted_rows,
    lifted_weight,
    reduce_rows,
    without_ignored,
)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_logits_that_are_not_floating_point_are_a_type_error(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="logits must be floating point, got torch"):
        check_logits(torch.zeros(2, 3, dtype=dtype))


@pytest.mark.parametrize("shape", [(), (0,), (4, 0), (4, 0, 2)])
def test_logits_without_a_class_are_a_value_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one class"):
        check_logits(torch.zeros(shape))


@pytest.mark.parametrize("target", [3, -1, -99, 250])
def test_an_index_out_of_range_is_named_with_classes_and_ignore_index(target: int) -> None:
    with pytest.raises(ValueError, match=rf"\[0, 3\) for 3 classes, or ignore_index \(-100\), got {target}"):
        counted_rows(torch.zeros(2, 3), torch.tensor([0, target]), -100)


def test_the_ignored_index_may_be_a_class_or_not() -> None:
    assert counted_rows(torch.zeros(2, 3), torch.tensor([0, 1]), 1).tolist() == [True, False]  # type: ignore[union-attr]
    assert counted_rows(torch.zeros(2, 3), torch.tensor([0, 77]), 77).tolist() == [True, False]  # type: ignore[union-attr]


def test_an_unsigned_target_is_not_wrapped_onto_the_ignored_index() -> None:
    counted = counted_rows(torch.zeros(1, 200), torch.tensor([156], dtype=torch.uint8), -100)
    assert counted is not None
    assert counted.all()  # -100 modulo 256 is 156


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 4), (1, 2, 3)])
def test_targets_of_another_shape_are_a_value_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\) or probabilities of shape \(2, 3\), got shape"):
        counted_rows(torch.zeros(2, 3), torch.zeros(shape, dtype=torch.long), -100)


def test_targets_of_a_wrong_type_are_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"must be integers, got torch.float32"):
        counted_rows(torch.zeros(2, 3), torch.zeros(2), -100)
    with pytest.raises(TypeError, match=r"must be integers, got torch.bool"):
        counted_rows(torch.zeros(2, 3), torch.zeros(2, dtype=torch.bool), -100)
    with pytest.raises(TypeError, match=r"must be floating-point probabilities, got torch.int64"):
        counted_rows(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long), -100)


def test_a_weight_for_another_number_of_classes_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"each of 3 classes, got shape \(2,\)"):
        lifted_weight(torch.ones(2), torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("weight", "got"), [([1.0, -2.0], r"\[1.0, -2.0\]"), ([float("nan")], "nan"), ([1e999], "inf")]
)
def test_weights_that_are_negative_or_not_finite_are_a_value_error(weight: list[float], got: str) -> None:
    with pytest.raises(ValueError, match=f"weight must be >= 0 for each class, got .*{got}"):
        class_weights(weight)


def test_weights_are_one_a_class() -> None:
    with pytest.raises(ValueError, match=r"one entry for each class, got shape \(2, 2\)"):
        class_weights(torch.ones(2, 2))
    assert class_weights(None) is None


def test_rows_that_do_not_count_are_hidden_on_the_class_axis() -> None:
    z = torch.full((2, 3, 2), torch.nan)
    hidden = without_ignored(z, torch.tensor([[True, False], [False, True]]))
    assert hidden.isnan().all(1).tolist() == [[True, False], [False, True]]
    assert without_ignored(z, torch.ones(2, 2, dtype=torch.bool)) is z


def test_the_mean_divides_by_the_weights_of_counted_rows_or_by_one_if_they_are_zero() -> None:
    values, counted = torch.tensor([2.0, 9.0]), torch.tensor([True, False])
    assert reduce_rows(values, counted, "mean", torch.tensor([4.0, 7.0])) == 0.5
    assert reduce_rows(values * 0, counted, "mean", torch.zeros(2)) == 0
    assert reduce_rows(values, ~counted & counted, "mean") == 0
    assert reduce_rows(torch.zeros(0), None, "mean") == 0
