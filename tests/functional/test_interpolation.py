import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from logitwatch.functional.interpolation import hermite_polynomial, polynomial_value


@given(
    coefficients=st.lists(st.floats(-1, 1), min_size=1, max_size=12),
    nodes=st.integers(2, 6),
    derivatives=st.integers(1, 3),
)
def test_a_polynomial_of_low_enough_degree_is_found_again(
    coefficients: list[float], nodes: int, derivatives: int
) -> None:
    kept = coefficients[: nodes * derivatives]

    def value(x: float, order: int = 0) -> float:
        return sum(a * math.perm(k, order) * x ** (k - order) for k, a in enumerate(kept) if k >= order)

    conditions = torch.tensor([[value(i, d) for i in range(nodes)] for d in range(derivatives)], dtype=torch.float64)
    found = hermite_polynomial(conditions)
    size = 1 + conditions.abs().max().item()
    for order in (0, 1, 2):
        x = 0.37 * (nodes - 1)
        # float64, and a system of 18 equations whose condition number is below 1e6.
        assert polynomial_value(found, x, order, nodes=nodes) == pytest.approx(value(x, order), abs=1e-8 * size)


def test_six_nodes_with_two_derivatives_follow_a_smooth_function_to_nine_digits() -> None:
    x = torch.arange(6, dtype=torch.float64) / 3
    curve = hermite_polynomial(torch.stack((x.sin(), x.cos() / 3, -x.sin() / 9)))
    assert polynomial_value(curve, 2.5, nodes=6) == pytest.approx(math.sin(2.5 / 3), abs=1e-12)
    assert polynomial_value(curve, 2.5, 1, nodes=6) == pytest.approx(math.cos(2.5 / 3) / 3, abs=1e-11)


@pytest.mark.parametrize("shape", [(3,), (2, 1)])
def test_too_few_nodes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two nodes or more"):
        hermite_polynomial(torch.zeros(shape, dtype=torch.float64))
