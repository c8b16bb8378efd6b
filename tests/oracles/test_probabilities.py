"""Quantities of a row against scipy in float64 and mpmath at fifty digits."""

import mpmath
import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from logitwatch.functional.row_statistics import row_statistics
from logitwatch.functional.scores import brier_score, nll
from logitwatch.functional.uncertainty import energy, log_partition, softmax_entropy
from logitwatch.states.logit_histogram import LogitHistogram

# Logits that are hard: ties, far apart, nearly certain, huge, tiny.
HARD = [
    [0.0, 0.0, 0.0],
    [1.0, -1.0, 0.5],
    [1e-4, 0.0, -1e-4],
    [30.0, 0.0, -30.0],
    [100.0, 99.9999, -1000.0],
    [1e6, 1e6 - 1, 1e6 - 2],
    [-1e6, -1e6 - 17, -1e6 - 0.5],
    [88.0, 0.0, 0.0],
]


def normal(*shape: int) -> Tensor:
    return 5 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def exact_row(logits: list[float], target: int) -> dict[str, float]:
    with mpmath.workdps(50):
        z = [mpmath.mpf(value) for value in logits]
        log_z = mpmath.log(mpmath.fsum(mpmath.exp(value - max(z)) for value in z)) + max(z)
        p = [mpmath.exp(value - log_z) for value in z]
        return {
            "log_partition": float(log_z),
            "entropy": float(-mpmath.fsum(q * (value - log_z) for q, value in zip(p, z, strict=True))),
            "confidence": float(max(p)),
            "nll": float(log_z - z[target]),
            "brier": float(mpmath.fsum((q - (k == target)) ** 2 for k, q in enumerate(p))),
        }


def test_entropy_and_log_partition_are_those_of_scipy() -> None:
    z = normal(50, 30)
    p = special.softmax(z.numpy(), axis=-1)
    # float64 against float64: rounding of sums of thirty terms.
    np.testing.assert_allclose(softmax_entropy(z), stats.entropy(p, axis=-1), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(log_partition(z), special.logsumexp(z.numpy(), axis=-1), rtol=1e-14)
    np.testing.assert_allclose(
        energy(z, temperature=2.5), 2.5 * special.logsumexp(z.numpy() / 2.5, axis=-1), rtol=1e-13
    )


@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize("logits", HARD)
def test_float64_rows_are_exact_to_rounding(logits: list[float], target: int) -> None:
    rows = row_statistics(torch.tensor([logits], dtype=torch.float64), torch.tensor([target]))
    for name, value in exact_row(logits, target).items():
        # Absolute where the quantity is a difference of numbers near 1.
        assert getattr(rows, name).item() == pytest.approx(value, rel=1e-14, abs=4e-16), name


@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize("logits", HARD)
def test_float32_rows_are_exact_to_rounding(logits: list[float], target: int) -> None:
    z = torch.tensor([logits])
    rows = row_statistics(z, torch.tensor([target]))
    for name, value in exact_row(z[0].tolist(), target).items():
        assert getattr(rows, name).item() == pytest.approx(value, rel=3e-7, abs=3e-7), name


def test_an_extreme_loss_keeps_its_digits() -> None:
    # Through probabilities this would be log(0).
    z = torch.tensor([[0.0, 500.0]])
    assert nll(z, torch.tensor([0])).item() == exact_row([0.0, 500.0], 0)["nll"]
    assert brier_score(z, torch.tensor([0])).item() == 2.0


def test_quantiles_are_those_of_numpy_where_cells_are_fine() -> None:
    values = normal(10_000).numpy()
    q = np.array([0.01, 0.1, 0.5, 0.9, 0.99])
    found = LogitHistogram.of(torch.from_numpy(values)).quantile(torch.from_numpy(q))
    # A cell is 1/16 of its value wide, and interpolation gains a factor of ten where values are this dense.
    np.testing.assert_allclose(found, np.quantile(values, q), rtol=1 / 160, atol=0.01)
