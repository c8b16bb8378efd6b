import math

import pytest
import torch
from torch import Tensor

from logitwatch.functional.uncertainty import confidence, effective_classes, energy, log_partition, softmax_entropy

ALL = [confidence, effective_classes, energy, log_partition, softmax_entropy]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("quantity", ALL)
def test_classes_lie_on_any_axis(quantity) -> None:
    z = normal(3, 4, 5)
    torch.testing.assert_close(quantity(z, dim=1), quantity(z.movedim(1, -1)))
    assert quantity(z, dim=0).shape == (4, 5)


@pytest.mark.parametrize("quantity", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_numbers_of_the_same_values_in_float32(quantity, dtype: torch.dtype) -> None:
    z = normal(6, 5).to(dtype)
    assert quantity(z).dtype == torch.float32
    assert torch.equal(quantity(z), quantity(z.float()))


@pytest.mark.parametrize("classes", [1, 2, 1000])
@pytest.mark.parametrize("value", [0.0, 1e30, -1e30])
def test_equal_logits_of_any_size_are_the_least_certain(classes: int, value: float) -> None:
    z = torch.full((classes,), value)
    assert softmax_entropy(z).item() == pytest.approx(math.log(classes), abs=1e-5)
    assert effective_classes(z).item() == pytest.approx(classes, rel=1e-5)
    assert confidence(z).item() == pytest.approx(1 / classes, rel=1e-6)


def test_one_present_class_is_certain() -> None:
    z = torch.tensor([-torch.inf, 7.0, -torch.inf])
    assert (softmax_entropy(z).item(), confidence(z).item(), log_partition(z).item()) == (0.0, 1.0, 7.0)


@pytest.mark.parametrize("quantity", [confidence, effective_classes, softmax_entropy])
@pytest.mark.parametrize("bad", [[torch.nan, 0.0], [torch.inf, 0.0], [-torch.inf, -torch.inf]])
def test_a_row_without_a_distribution_is_nan(quantity, bad: list[float]) -> None:
    values = quantity(torch.tensor([bad, [0.0, 0.0]]))
    assert values.isnan().tolist() == [True, False]


def test_the_log_partition_of_nothing_is_minus_infinity() -> None:
    assert log_partition(torch.tensor([-torch.inf, -torch.inf])).item() == -math.inf


def test_energy_at_temperature_one_is_the_log_partition_and_nears_the_maximum_in_the_cold() -> None:
    z = normal(6, 5)
    assert torch.equal(energy(z), log_partition(z))
    # T log K is the furthest it can be.
    torch.testing.assert_close(energy(z, temperature=1e-3), z.amax(-1), rtol=0, atol=1e-3 * math.log(5))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be > 0"):
        energy(torch.zeros(2), temperature=temperature)


def test_the_gradient_of_entropy_is_finite_where_a_class_is_absent() -> None:
    z = torch.tensor([1.0, 2.0, -torch.inf], requires_grad=True)
    softmax_entropy(z).backward()
    p = z.detach().softmax(-1)
    expected = -p * (p.clamp(min=1e-30).log() + softmax_entropy(z.detach()))
    torch.testing.assert_close(z.grad, expected)
