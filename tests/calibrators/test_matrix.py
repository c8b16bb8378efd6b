import warnings

import pytest
import torch
from torch import Tensor

from logitwatch.calibrators.inputs import CalibrationWarning
from logitwatch.calibrators.matrix import MatrixScaling
from logitwatch.functional.scores import nll


def batch(rows: int = 2000, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = 1.5 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return z, z.softmax(-1).multinomial(1, generator=generator).squeeze(1)


def test_it_undoes_a_mixture_of_the_logits() -> None:
    z, y = batch(30_000, 3)
    mixture = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [-0.4, 0.0, 1.0]], dtype=torch.float64)
    restored = MatrixScaling().double().fit(z @ mixture.T, y)(z @ mixture.T)
    # Nine entries with standard errors of about 0.015.
    assert (restored.softmax(-1) - z.softmax(-1)).abs().mean() < 0.01


def test_few_rows_are_warned_of() -> None:
    z, y = batch(199)
    with pytest.warns(CalibrationWarning, match=r"20 numbers to 199 rows .* expected 200 rows or more; give off_diag"):
        MatrixScaling().fit(z, y)
    with pytest.warns(CalibrationWarning) as seen:
        MatrixScaling().fit(z, y)
    assert seen[0].filename == __file__


def test_enough_rows_or_a_penalty_are_not() -> None:
    MatrixScaling().fit(*batch(200))
    z, y = batch(200)
    MatrixScaling().fit(z[:100], y[:100], weights=torch.full((100,), 2))
    MatrixScaling(off_diagonal=0.1).fit(*batch(100))


def test_it_overfits_few_rows_and_a_penalty_helps() -> None:
    z, y = batch(1200, 10)
    train, test = slice(0, 200), slice(200, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        plain = MatrixScaling().double().fit(z[train], y[train])
    kept = MatrixScaling(off_diagonal=1.0).double().fit(z[train], y[train])
    assert nll(plain(z[train]), y[train]).mean() < nll(z[train], y[train]).mean() - 0.1
    assert nll(plain(z[test]), y[test]).mean() > nll(z[test], y[test]).mean() + 0.1
    assert nll(kept(z[test]), y[test]).mean() < nll(plain(z[test]), y[test]).mean() - 0.1


def test_a_heavy_penalty_leaves_a_scaling_of_each_class() -> None:
    z, y = batch()
    matrix = MatrixScaling(off_diagonal=1e4, intercept_penalty=1e4).double().fit(3 * z, y)
    off = matrix.matrix - torch.diag(matrix.matrix.diag())
    assert off.abs().max() < 1e-3
    assert matrix.intercept.abs().max() < 1e-3
    torch.testing.assert_close(matrix.matrix.diag(), torch.full((4,), 1 / 3, dtype=torch.float64), rtol=0.2, atol=0)


@pytest.mark.parametrize("scale", [1e-3, 50.0, 1e4])
@pytest.mark.parametrize("penalties", [(0.0, 0.0), (0.1, 0.1)])
def test_the_scale_of_the_logits_does_not_matter(scale: float, penalties: tuple[float, float]) -> None:
    def made() -> MatrixScaling:
        return MatrixScaling(off_diagonal=penalties[0], intercept_penalty=penalties[1]).double()

    z, y = batch()
    difference = made().fit(scale * z, y)(scale * z).log_softmax(-1) - made().fit(z, y)(z).log_softmax(-1)
    assert difference.abs().max() < 1e-6  # rounding of the logits moves where the searches stop


def test_an_absent_class_enters_as_the_mean_of_the_others() -> None:
    z, y = batch()
    matrix = MatrixScaling().double().fit(z, y)
    row = torch.tensor([1.0, 2.0, 6.0, -torch.inf], dtype=torch.float64)
    whole = torch.tensor([1.0, 2.0, 6.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(matrix(row)[:3], matrix(whole)[:3])
    assert matrix(row)[3] == -torch.inf


@pytest.mark.parametrize("name", ["off_diagonal", "intercept_penalty", "smoothing"])
def test_a_penalty_is_an_amount(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be finite and >= 0, got -1"):
        MatrixScaling(**{name: -1.0})
