import math

import pytest
import torch
from torch import Tensor

from logitwatch.calibrators.inputs import calibration_rows, check_floor, check_not_negative

Z = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 3.0]])
Y = torch.tensor([0, 1, 2])


def test_sequences_become_rows() -> None:
    rows = calibration_rows(Z.expand(4, 3, 3), Y.expand(4, 3).to(torch.int32))
    assert rows.logits.shape == (12, 3)
    assert rows.targets.tolist() == [0, 1, 2] * 4
    assert rows.weights.dtype == torch.float64
    assert rows.weights.tolist() == [1.0] * 12


def test_every_row_is_used_ignored_or_left_out() -> None:
    z = torch.cat((Z, Z, Z, Z))
    z[3, 0], z[4, 1], z[5], z[6, 0], z[7, 0] = torch.nan, torch.inf, -torch.inf, -torch.inf, -torch.inf
    y = torch.tensor([0, 1, 2, 0, 0, 0, 0, 1, -100, 0, 1, 7])
    weights = torch.ones(12)
    weights[10:] = 0  # the last, which is no class, included
    rows = calibration_rows(z, y, weights)
    # Of the rows with an absent class (6, 7) one has it for a target.
    assert rows.logits.tolist() == z[[0, 1, 2, 7, 9]].tolist()
    assert (rows.ignored, rows.left_out) == (3, 4)


def test_what_carries_a_graph_is_taken_without_it() -> None:
    assert not calibration_rows(Z.clone().requires_grad_(), Y).logits.requires_grad


@pytest.mark.parametrize(
    ("logits", "targets", "weights", "error", "message"),
    [
        (Z.long(), Y, None, TypeError, "logits must be floating point, got torch.int64"),
        (Z, Y.float(), None, TypeError, "targets must be integers, got torch.float32"),
        (Z, Y.bool(), None, TypeError, "targets must be integers, got torch.bool"),
        (Z[0], Y[0], None, ValueError, r"logits must be \[\.\.\., classes\].* got shape \(3,\)"),
        (Z[:, :1], Y * 0, None, ValueError, r"two classes or more, got shape \(3, 1\)"),
        (Z, Y[:2], None, ValueError, r"class indices of shape \(3,\) for .* \(3, 3\), got shape \(2,\)"),
        (Z, Z.softmax(-1), None, ValueError, r"class indices of shape \(3,\) for .* got shape \(3, 3\)"),
        (Z, Y + 1, None, ValueError, r"in \[0, 3\) for 3 classes, or ignore_index \(-100\), got 3"),
        (Z, Y - 1, None, ValueError, r"in \[0, 3\) .* got -1"),
        (Z, Y, torch.ones(2), ValueError, r"weights must have the shape of targets, \(3,\), got \(2,\)"),
        (Z, Y, torch.tensor([1.0, -1.0, math.nan]), ValueError, "weights must be finite and >= 0, got 2 that are not"),
        (Z, Y, torch.zeros(3), ValueError, "expected rows to fit, got 3: 3 ignored"),
        (Z[:0], Y[:0], None, ValueError, "expected rows to fit, got 0: 0 ignored"),
        (Z, Y * 0 - 100, None, ValueError, r"got 3: 3 ignored \(target -100 or weight 0\), 0 left out"),
        (Z * math.nan, Y, None, ValueError, "got 3: 0 ignored .* 3 left out"),
        (Z, Y * 0 + 1, None, ValueError, "two classes or more, got 3 rows that are all of class 1"),
    ],
)
def test_bad_input_is_an_error_that_says_what_came(
    logits: Tensor, targets: Tensor, weights: Tensor | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        calibration_rows(logits, targets, weights)


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_an_amount_is_finite_and_not_negative(value: float) -> None:
    with pytest.raises(ValueError, match=f"smoothing must be finite and >= 0, got {value}"):
        check_not_negative("smoothing", value)


@pytest.mark.parametrize("value", [-0.1, 0.5, math.nan])
def test_a_floor_leaves_room(value: float) -> None:
    with pytest.raises(ValueError, match=rf"floor must be in \[0, 0.5\) or None, got {value}"):
        check_floor(value)
