import pytest
import torch
from helpers.dtensors import pretending, shards, spread

from logitwatch.losses.linear_inputs import absent_classes, check_linear, checked_targets, product_dtype

H, W, Y = torch.zeros(2, 3, 4), torch.zeros(5, 4), torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"linear_weight": torch.zeros(5)}, r"linear_weight must be \[classes, features\], got shape \(5,\)"),
        ({"linear_weight": torch.zeros(0, 4)}, r"linear_weight must be"),
        ({"input": torch.zeros(2, 3)}, r"input must be \[..., 4\] for this linear_weight, got shape \(2, 3\)"),
        ({"input": torch.zeros(())}, "input must be"),
        ({"target": Y[0]}, r"target must be class indices of shape \(2, 3\), got shape \(3,\)"),
        ({"linear_bias": torch.zeros(4)}, "linear_bias must have one entry for each of 5 classes"),
        ({"weight": torch.zeros(5, 1)}, "weight must have one entry for each of 5 classes"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changed: dict[str, torch.Tensor], message: str) -> None:
    given = {"input": H, "linear_weight": W, "target": Y, "linear_bias": None, "weight": None}
    with pytest.raises(ValueError, match=message):
        check_linear(**(given | changed))  # type: ignore[arg-type]


def test_a_target_or_class_weights_spread_over_ranks_are_refused() -> None:
    shard, _, _ = shards()
    with pretending(0, (4,)) as mesh:
        target, weight = spread(Y, mesh, [shard(0)]), spread(torch.zeros(5), mesh, [shard(0)])
        with pytest.raises(TypeError, match=r"target must be whole on each rank, got a DTensor placed \(Shard"):
            check_linear(H, W, target, None, None)
        with pytest.raises(TypeError, match=r"weight must be whole on each rank, .* use weight.full_tensor\(\)"):
            check_linear(H, W, Y, None, weight)


@pytest.mark.parametrize("wrong", [5, -1])
def test_a_target_that_is_no_class_is_named(wrong: int) -> None:
    with pytest.raises(ValueError, match=rf"target must be in \[0, 5\) for 5 classes, .* got {wrong}"):
        checked_targets(torch.tensor([0, -100, wrong]), 5, -100)


def test_targets_must_be_integers_of_any_width() -> None:
    with pytest.raises(TypeError, match=r"target must be integers, got torch.float32"):
        checked_targets(torch.zeros(2), 5, -100)
    index, counted = checked_targets(torch.tensor([3, 1], dtype=torch.uint8), 5, 1)
    assert index.tolist() == [3, 0]
    assert counted.tolist() == [True, False]


def test_absent_classes_are_those_of_an_infinite_bias() -> None:
    assert absent_classes(None) is None
    assert absent_classes(torch.zeros(2)) is None
    found = absent_classes(torch.tensor([0.0, float("-inf")]))
    assert found is not None
    assert found.tolist() == [False, True]


def test_products_run_in_the_type_of_both_or_of_autocast() -> None:
    assert product_dtype(H.bfloat16(), W.bfloat16()) == torch.bfloat16
    assert product_dtype(H.half(), W.half()) == torch.float32
    with pytest.raises(
        TypeError, match=r"linear_weight must have the type of input, torch.bfloat16, got torch.float32"
    ):
        product_dtype(H.bfloat16(), W)
    with pytest.raises(TypeError, match=r"input must be floating point, got torch.int64"):
        product_dtype(Y, W)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product_dtype(H, W) == torch.bfloat16
        assert product_dtype(H.double(), W.double()) == torch.float64
