"""The temperature from a stream against those that keep all logits."""

import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.calibration import _TemperatureScaling
from torch import Tensor
from torch.nn import functional as F

from logitwatch.states.temperature_grid import TemperatureGrid


def predictions(classes: int, temperature: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(2000, classes, generator=generator)
    y = (z / temperature).softmax(-1).multinomial(1, generator=generator).squeeze(1)
    return z, y


def streamed(z: Tensor, y: Tensor) -> TemperatureGrid:
    seen = TemperatureGrid.empty()
    for part, labels in zip(z.split(300), y.split(300), strict=True):
        seen = seen.merge(TemperatureGrid.of(part, labels))
    return seen


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("temperature", [0.5, 2.3])
def test_temperature_and_refinement_are_those_scipy_finds(classes: int, temperature: float) -> None:
    z, y = predictions(classes, temperature)
    found = minimize_scalar(
        lambda u: F.cross_entropy(z.double() * torch.tensor(u).exp(), y).item(), bounds=(-6, 6), options={"xatol": 1e-9}
    )
    seen = streamed(z, y)
    # A minimum is flat: scipy's own error is the root of the rounding of its values.
    assert seen.temperature().item() == pytest.approx(torch.tensor(-found.x).exp().item(), rel=1e-5)
    assert seen.nll_at_optimum().item() == pytest.approx(found.fun, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2.3])
def test_the_temperature_is_that_of_scikit_learn(temperature: float) -> None:
    z, y = predictions(10, temperature)
    theirs = _TemperatureScaling().fit(z.double().numpy(), y.numpy())
    # scikit-learn searches the logarithm to 64 machine numbers of float64.
    assert streamed(z, y).temperature().item() == pytest.approx(1 / theirs.beta_, rel=1e-5)
