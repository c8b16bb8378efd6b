import pytest
import torch
from torch import Tensor

from logitwatch.calibrators.inputs import CalibrationWarning, calibration_rows
from logitwatch.calibrators.softmax_fit import SoftmaxFit, filled, minimum

ABSENT = -torch.inf


def rows() -> SoftmaxFit:
    z = torch.tensor([[2.0, 0.0, ABSENT], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0]])
    return SoftmaxFit.of(calibration_rows(z, torch.tensor([0, 1, 1]), torch.tensor([1.0, 1.0, 2.0])), smoothing=0.6)


def test_the_gradient_is_that_of_autograd() -> None:
    problem = rows()
    outputs = problem.logits.clone().requires_grad_()
    loss, gradient = problem.nll(outputs)
    loss.backward()
    torch.testing.assert_close(outputs.grad, gradient, rtol=0, atol=1e-15)


def test_targets_are_smoothed_by_rows_over_the_present_classes() -> None:
    # 0.6 rows of 4 are spread: 0.15 of each.
    wanted = [[0.925, 0.075, 0.0], [0.05, 0.9, 0.05], [0.05, 0.9, 0.05]]
    torch.testing.assert_close(rows().targets, torch.tensor(wanted, dtype=torch.float64))


def test_logits_are_standardised() -> None:
    problem = rows()
    torch.testing.assert_close((problem.weights * problem.logits).sum(0), torch.zeros(3, dtype=torch.float64))
    assert (problem.weights * problem.logits.square()).sum().item() == pytest.approx(3)
    back = problem.logits * problem.spread + problem.centre
    assert back[0].tolist() == pytest.approx([2.0, 0.0, 1.0])  # the absent one filled


def test_logits_without_spread_are_left_as_they_are() -> None:
    problem = SoftmaxFit.of(calibration_rows(torch.ones(2, 2), torch.tensor([0, 1])), smoothing=0.5)
    assert problem.spread == 1
    assert not problem.logits.any()


def test_only_absent_classes_are_filled() -> None:
    z = torch.tensor([[1.0, 3.0, ABSENT], [torch.nan, 1.0, ABSENT], [ABSENT, ABSENT, ABSENT]])
    assert filled(z)[0].tolist() == [1.0, 3.0, 2.0]
    assert filled(z)[1].isnan().tolist() == [True, False, False]
    assert filled(z)[2].tolist() == [0.0, 0.0, 0.0]


def test_the_minimum_of_a_narrow_valley_is_found() -> None:
    scale = torch.logspace(-3, 3, 20, dtype=torch.float64)

    def valley(x: Tensor) -> tuple[Tensor, Tensor]:
        return (scale * (x - 1).square()).sum() / 2, scale * (x - 1)

    found = minimum(valley, torch.zeros(20, dtype=torch.float64), "a test")
    # The gradient is below 1e-9, and along the flattest direction 1e-3 times the distance.
    torch.testing.assert_close(found, torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_search_that_does_not_end_says_so() -> None:
    with pytest.warns(CalibrationWarning, match="a test has not converged.* largest gradient 1.0e"):
        minimum(lambda x: (-x.sum(), -torch.ones_like(x)), torch.zeros(1, dtype=torch.float64), "a test")
