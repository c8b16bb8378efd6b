"""The polynomial through values and derivatives at equally spaced nodes."""

import torch
from torch import Tensor

__all__ = ["hermite_polynomial", "polynomial_value"]


def hermite_polynomial(conditions: Tensor) -> Tensor:
    r"""Coefficients of the polynomial with given value and derivatives at the nodes ``0, 1, ..., nodes - 1``.

    .. math:: p^{(d)}(i) = \mathrm{conditions}_{d, i}, \qquad p(x) = \sum_k a_k \Bigl(\frac{x - m}{m}\Bigr)^k,
        \quad m = \frac{\mathrm{nodes} - 1}{2}

    Powers of a variable within ``[-1, 1]``, so that they stay well apart.

    Args:
        conditions: ``[derivatives, nodes]``, float64: the values first, then the first derivatives, and so on.

    Returns:
        ``[derivatives * nodes]``, the constant first, for `polynomial_value` with the same number of nodes.

    Raises:
        ValueError: If ``conditions`` is not two-dimensional or has fewer than two nodes.

    Examples:
        >>> square = hermite_polynomial(torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=torch.float64))  # x * x
        >>> round(polynomial_value(square, 1.5, nodes=2), 12), round(polynomial_value(square, 1.5, 1, nodes=2), 12)
        (2.25, 3.0)
    """
    if conditions.ndim != 2 or conditions.shape[1] < 2:
        raise ValueError(f"conditions must be [derivatives, nodes], two nodes or more, got {tuple(conditions.shape)}")
    derivatives, nodes = conditions.shape
    half = (nodes - 1) / 2
    like = {"dtype": conditions.dtype, "device": conditions.device}
    t = torch.arange(nodes, **like).sub_(half).div_(half)  # type: ignore[call-overload]
    powers = torch.arange(derivatives * nodes, **like)  # type: ignore[call-overload]
    factor, rows = torch.ones_like(powers), []
    for d in range(derivatives):
        rows.append(factor * t.unsqueeze(-1) ** (powers - d).clamp_(min=0) / half**d)
        factor = factor * (powers - d).clamp(min=0)
    coefficients: Tensor = torch.linalg.solve(torch.cat(rows), conditions.reshape(-1))
    return coefficients


def polynomial_value(coefficients: Tensor, x: float, derivative: int = 0, *, nodes: int) -> float:
    """Value, or a derivative, at ``x`` of a polynomial of `hermite_polynomial`.

    Args:
        coefficients: As `hermite_polynomial` returns them.
        x: Position, 0 at the first node and 1 at the second.
        derivative: Its order.
        nodes: Number of nodes they were made with.

    Examples:
        >>> polynomial_value(torch.tensor([1.0, 2.0]), 1.0, nodes=3)  # 1 + 2 (x - 1)
        1.0
    """
    half = (nodes - 1) / 2
    a = coefficients.tolist()
    for _ in range(derivative):
        a = [k * value / half for k, value in enumerate(a)][1:]
    t, value = (x - half) / half, 0.0
    for coefficient in reversed(a):
        value = value * t + coefficient
    return value
