import pytest
import torch
from torch import Tensor

from logitwatch.calibrators.inputs import CalibrationWarning, calibration_rows
from logitwatch.calibrators.logistic import (
    LogisticOptimum,
    class_coefficients,
    logistic_optimum,
    smoothed_targets,
)


def features(scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=generator, dtype=torch.float64)
    y = torch.rand(400, generator=generator, dtype=torch.float64) < (x @ x.new_tensor([1.0, -2.0])).sigmoid()
    return scale * x, y.double(), torch.rand(400, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_the_gradient_vanishes_at_the_optimum(scale: float) -> None:
    x, y, weights = features(scale)
    best = logistic_optimum(x, y, weights)
    gradient = x.T @ (weights * ((x @ best.coefficients).sigmoid() - y)) / weights.sum()
    assert best.found
    assert gradient.abs().max() < 1e-10 * scale


def test_a_far_start_does_not_overshoot() -> None:
    # One row far out: a full Newton step from 0 would saturate every other.
    x = torch.tensor([[1e3], [0.1], [-0.1], [0.1], [-0.1]], dtype=torch.float64)
    y = x.new_tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    best = logistic_optimum(x, y, torch.ones(5, dtype=torch.float64))
    assert best.found
    assert best.nll < 0.6931 * 0.81  # four rows of even odds, and one that is certain


def test_a_step_that_overshoots_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, weights = features()
    wanted = logistic_optimum(x, y, weights)
    solve = torch.linalg.solve
    monkeypatch.setattr(torch.linalg, "solve", lambda a, b: 7 * solve(a, b))
    best = logistic_optimum(x, y, weights)
    assert best.found
    # A seventh of a step too far or too near each time: it closes in by halves, a hundred times at most.
    torch.testing.assert_close(best.coefficients, wanted.coefficients, rtol=0, atol=1e-6)


def test_two_features_that_are_one_share_it() -> None:
    x, y, weights = features()
    one = logistic_optimum(x[:, :1], y, weights)
    two = logistic_optimum(x[:, [0, 0]], y, weights)
    assert two.nll == pytest.approx(one.nll, rel=1e-12)
    assert two.coefficients.sum().item() == pytest.approx(one.coefficients.item(), rel=1e-6)  # a ridge of 1e-13
    assert two.coefficients[0].item() == pytest.approx(two.coefficients[1].item(), rel=1e-3)


def test_a_feature_of_zeros_has_no_coefficient() -> None:
    x, y, weights = features()
    x[:, 1] = 0
    best = logistic_optimum(x, y, weights)
    assert best.coefficients[1] == 0
    assert best.found


def test_rows_on_their_own_sides_have_no_optimum_unless_their_targets_are_soft() -> None:
    x, _, weights = features()
    hard = (x[:, 0] > 0).double()
    assert not logistic_optimum(x, hard, weights).found
    assert logistic_optimum(x, 0.001 + 0.998 * hard, weights).found


def test_smoothed_targets_count_weights() -> None:
    yes, weights = torch.tensor([True, True, False]), torch.tensor([2.0, 1.0, 4.0], dtype=torch.float64)
    assert smoothed_targets(yes, weights).tolist() == [4 / 5, 4 / 5, 1 / 6]
    assert smoothed_targets(yes, weights, smoothing=False).tolist() == [1.0, 1.0, 0.0]


def test_classes_without_rows_stay_and_those_without_an_optimum_are_told() -> None:
    z = torch.tensor([[1.0, 0.0, -torch.inf], [0.0, 1.0, -torch.inf]])
    seen = []

    def fit_class(scores: Tensor, targets: Tensor, weights: Tensor) -> LogisticOptimum:
        seen.append((scores.tolist(), targets.tolist(), weights.tolist()))
        return LogisticOptimum(scores.new_tensor([5.0, 6.0]), 0.0, found=len(seen) > 1)

    with pytest.warns(CalibrationWarning, match="a test has no finite optimum for 1 of 3 classes, among them class 0"):
        coefficients = class_coefficients(
            calibration_rows(z, torch.tensor([0, 1])), fit_class, (1.0, 0.0), smoothing=False, what="a test"
        )
    assert coefficients.tolist() == [[5.0, 6.0], [5.0, 6.0], [1.0, 0.0]]
    assert seen[0] == ([1.0, -1.0], [1.0, 0.0], [1.0, 1.0])
