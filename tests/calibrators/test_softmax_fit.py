import pytest
import torch
from torch import Tensor

from logitwatch.calibrators.inputs import CalibrationWarning, calibration_rows
from logitwatch.calibrators.softmax_fit import LinearModel, SoftmaxFit, filled, minimum

ABSENT = -torch.inf


def rows() -> SoftmaxFit:
    z = torch.tensor([[2.0, 0.0, ABSENT], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0]])
    return SoftmaxFit.of(calibration_rows(z, torch.tensor([0, 1, 1]), torch.tensor([1.0, 1.0, 2.0])), smoothing=0.6)


def test_the_derivatives_are_those_of_autograd() -> None:
    problem = rows()
    direction = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 1.0], [0.5, 0.0, 3.0]], dtype=torch.float64)

    outputs = problem.logits.clone().requires_grad_()
    log_p = outputs.masked_fill(~problem.present, ABSENT).log_softmax(1).masked_fill(~problem.present, 0.0)
    wanted = -(problem.weights * problem.targets * log_p).sum()
    (wanted_gradient,) = torch.autograd.grad(wanted, outputs, create_graph=True)
    (wanted_curvature,) = torch.autograd.grad((wanted_gradient * direction).sum(), outputs)
    loss, gradient, p = problem.nll(problem.logits)
    assert loss == pytest.approx(wanted.item(), rel=1e-14)  # rounding, here and below
    torch.testing.assert_close(gradient, wanted_gradient, rtol=0, atol=1e-15)
    torch.testing.assert_close(problem.curvature(p, direction), wanted_curvature, rtol=0, atol=1e-15)


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


def narrow(scale: Tensor) -> tuple[SoftmaxFit, LinearModel]:
    """Slopes and offsets of three classes, in units that differ by ``scale``."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(500, 3, generator=generator)
    y = z.softmax(-1).multinomial(1, generator=generator).squeeze(1)
    problem = SoftmaxFit.of(calibration_rows(z, y), smoothing=0.0)
    model = LinearModel(
        outputs=lambda x: problem.logits * (scale * x)[:3] + (scale * x)[3:],
        adjoint=lambda g: scale * torch.cat(((g * problem.logits).sum(0), g.sum(0))),
        start=torch.zeros(6, dtype=torch.float64),
    )
    return problem, model


def test_the_minimum_of_a_narrow_valley_is_found() -> None:
    scale = torch.logspace(-2, 2, 6, dtype=torch.float64)
    even = minimum(*narrow(torch.ones_like(scale)), "a test")
    found = scale * minimum(*narrow(scale), "a test")
    # The gradient of the flattest is below 1e-10, which is 1e-2 of that for equal units, and the curvature near 0.1.
    torch.testing.assert_close(found[:3], even[:3], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[3:] - found[3:].mean(), even[3:], rtol=0, atol=1e-6)


def test_a_penalty_and_an_offset_are_part_of_the_problem() -> None:
    problem, model = narrow(torch.ones(6, dtype=torch.float64))
    point = minimum(problem, model._replace(penalty=lambda x: 0.2 * x, offset=problem.logits), "a test")
    _, by_output, _ = problem.nll(model.outputs(point) + problem.logits)
    torch.testing.assert_close(model.adjoint(by_output), -0.2 * point, rtol=0, atol=1e-9)


def test_a_far_start_is_no_trouble() -> None:
    problem, model = narrow(torch.ones(6, dtype=torch.float64))
    far = model.start + torch.tensor([300.0, -500.0, 0.0, 50.0, 0.0, -50.0])
    torch.testing.assert_close(
        minimum(problem, model._replace(start=far), "a test"), minimum(problem, model, "a test"), rtol=0, atol=1e-7
    )


def test_a_search_that_does_not_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logitwatch.calibrators.softmax_fit.ITERATIONS", 2)
    with pytest.warns(CalibrationWarning, match="a test has not converged in 2 iterations: largest gradient"):
        minimum(*narrow(torch.ones(6, dtype=torch.float64)), "a test")
