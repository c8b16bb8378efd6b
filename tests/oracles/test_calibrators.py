"""Calibrators against scikit-learn where it has them, and against their definitions minimised by scipy where not."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logsumexp
from scipy.stats import binned_statistic
from sklearn.calibration import _sigmoid_calibration, _TemperatureScaling
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from logitwatch.calibrators import (
    BetaCalibration,
    BiasCorrection,
    HistogramBinning,
    IsotonicCalibration,
    MatrixScaling,
    PlattScaling,
    TemperatureScaling,
    VectorScaling,
)


def batch(classes: int, rows: int = 2000, *, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Over-confident logits with a bias, and targets."""
    generator = torch.Generator().manual_seed(classes)
    z = 1.5 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    y = z.softmax(-1).multinomial(1, generator=generator).squeeze(1)
    return scale * z + torch.arange(classes), y


def margin(z: Tensor) -> np.ndarray:
    return (z[:, 1] - z[:, 0]).numpy()


def mean_nll(outputs: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> float:
    return float(np.average(-log_softmax(outputs, 1)[np.arange(len(y)), y], weights=weights))


def minimised(definition, start: np.ndarray, **options) -> np.ndarray:
    """Where a smooth function is smallest, by the tightest search scipy has without a gradient of ours."""
    best = minimize(definition, start, method="BFGS", options={"gtol": 1e-9}, **options)
    return minimize(definition, best.x, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15}).x


@pytest.mark.parametrize("scale", [0.5, 3.0, 50.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_temperature_is_that_of_scikit_learn(classes: int, scale: float) -> None:
    z, y = batch(classes, scale=scale)
    theirs = 1 / _TemperatureScaling().fit(z.numpy(), y.numpy()).beta_
    ours = TemperatureScaling().double().fit(z, y).temperature.item()
    # Theirs stops when the interval of log beta is below 64 ulps, where the NLL is flat to its square.
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert mean_nll(z.numpy() / ours, y.numpy()) <= mean_nll(z.numpy() / theirs, y.numpy()) + 1e-15


def test_weighted_temperature_is_that_of_scikit_learn() -> None:
    z, y = batch(4)
    weights = np.random.default_rng(0).uniform(0.1, 3, len(y))
    theirs = 1 / _TemperatureScaling().fit(z.numpy(), y.numpy(), sample_weight=weights).beta_
    ours = TemperatureScaling().double().fit(z, y, weights=torch.from_numpy(weights)).temperature.item()
    assert ours == pytest.approx(theirs, rel=1e-6)  # as above


@pytest.mark.parametrize("weighted", [False, True])
def test_platt_of_two_classes_is_the_sigmoid_of_scikit_learn(weighted: bool) -> None:
    z, y = batch(2)
    weights = np.random.default_rng(0).uniform(0.1, 3, len(y)) if weighted else np.ones(len(y))
    a, b = _sigmoid_calibration(margin(z), y.numpy(), sample_weight=weights)
    platt = PlattScaling().double().fit(z, y, weights=torch.from_numpy(weights))
    # Theirs stops at a gradient of 1e-6.
    assert (platt.slope[1].item(), platt.intercept[1].item()) == pytest.approx((-a, -b), rel=1e-6, abs=1e-6)
    ours = platt(z).softmax(-1)[:, 1].numpy()
    np.testing.assert_allclose(ours, expit(-(a * margin(z) + b)), atol=1e-6)  # as above


def test_platt_without_smoothing_is_logistic_regression_of_each_class() -> None:
    z, y = batch(4)
    platt = PlattScaling(smoothing=False).double().fit(z, y)
    for k in range(4):
        others = np.delete(z.numpy(), k, axis=1)
        score = (z[:, k].numpy() - logsumexp(others, 1))[:, None]
        theirs = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(score, y.numpy() == k)
        wanted = (theirs.coef_[0, 0], theirs.intercept_[0])
        assert (platt.slope[k].item(), platt.intercept[k].item()) == pytest.approx(wanted, rel=1e-8)  # both converge


@pytest.mark.parametrize("weighted", [False, True])
def test_isotonic_of_two_classes_is_that_of_scikit_learn(weighted: bool) -> None:
    z, y = batch(2)
    weights = np.random.default_rng(0).uniform(0.1, 3, len(y)) if weighted else np.ones(len(y))
    theirs = IsotonicRegression(out_of_bounds="clip").fit(margin(z), y.numpy(), sample_weight=weights)
    isotonic = IsotonicCalibration(floor=0.0).double().fit(z, y, weights=torch.from_numpy(weights))
    fresh, _ = batch(2, scale=5.0)  # between the knots and beyond
    for logits in (z, fresh):
        ours = isotonic(logits).softmax(-1)[:, 1].numpy()
        np.testing.assert_allclose(ours, theirs.predict(margin(logits)), atol=1e-13)  # sums in another order


def test_isotonic_of_many_classes_is_one_of_scikit_learn_for_each() -> None:
    z, y = batch(4)
    ours = IsotonicCalibration(floor=0.0).double().fit(z, y)(z).softmax(-1).numpy()
    theirs = np.empty_like(ours)
    for k in range(4):
        score = z[:, k].numpy() - logsumexp(np.delete(z.numpy(), k, axis=1), 1)
        theirs[:, k] = IsotonicRegression(out_of_bounds="clip").fit_transform(score, y.numpy() == k)
    np.testing.assert_allclose(ours, theirs / theirs.sum(1, keepdims=True), atol=1e-12)  # as above


def test_isotonic_pools_ties_as_scikit_learn_does() -> None:
    z, y = batch(2)
    z = z.round()
    theirs = IsotonicRegression().fit_transform(margin(z), y.numpy())
    ours = IsotonicCalibration(floor=0.0).double().fit(z, y)(z).softmax(-1)[:, 1].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-13)


def test_matrix_is_multinomial_logistic_regression() -> None:
    z, y = batch(5)
    theirs = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000, solver="newton-cg").fit(z.numpy(), y.numpy())
    matrix = MatrixScaling(smoothing=0.0).double().fit(z, y)
    # Both stop at a small gradient, of the mean and of the sum.
    np.testing.assert_allclose(matrix(z).softmax(-1).numpy(), theirs.predict_proba(z.numpy()), atol=1e-6)
    ours, wanted = (mean_nll(f, y.numpy()) for f in (matrix(z).numpy(), theirs.decision_function(z.numpy())))
    assert ours == pytest.approx(wanted, abs=1e-13)


def test_vector_is_its_definition() -> None:
    z, y = (part.numpy() for part in batch(3))

    def definition(x: np.ndarray) -> float:
        return mean_nll(z * x[:3] + np.array([x[3], x[4], -x[3] - x[4]]), y)

    wanted = minimised(definition, np.array([0.3, 0.3, 0.3, 0, 0]))
    vector = VectorScaling(smoothing=0.0).double().fit(torch.from_numpy(z), torch.from_numpy(y))
    ours = [*vector.slope.tolist(), *vector.intercept[:2].tolist()]
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)  # differences instead of a gradient
    assert definition(np.array(ours)) <= definition(wanted) + 1e-14


def test_regularised_matrix_is_its_definition() -> None:
    z, y = (part.numpy() for part in batch(3, rows=300))
    spread = np.sqrt(((z - z.mean(0)) ** 2).mean())
    off = 1 - np.eye(3)

    def definition(x: np.ndarray) -> float:
        w, b = x[:9].reshape(3, 3), x[9:]
        penalty = 0.03 * ((spread * w * off) ** 2).sum() / 6 + 0.2 * (b**2).mean()
        return mean_nll(z @ w.T + b, y) + penalty

    wanted = minimised(definition, np.append(np.eye(3).ravel() / 3, np.zeros(3)))
    matrix = MatrixScaling(off_diagonal=0.03, intercept_penalty=0.2, smoothing=0.0).double()
    matrix.fit(torch.from_numpy(z), torch.from_numpy(y))
    ours = np.append(matrix.matrix.numpy().ravel(), matrix.intercept.numpy())
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)  # differences instead of a gradient
    assert definition(ours) <= definition(wanted) + 1e-13


def test_bias_is_its_definition_and_predicts_the_frequencies() -> None:
    z, y = batch(3)
    correction = BiasCorrection(smoothing=0.0).double().fit(z, y)
    wanted = minimised(lambda x: mean_nll(z.numpy() + np.append(x, -x.sum()), y.numpy()), np.zeros(2))
    np.testing.assert_allclose(correction.bias[:2].numpy(), wanted, atol=1e-6)  # differences instead of a gradient
    frequencies = torch.bincount(y) / len(y)
    torch.testing.assert_close(correction(z).softmax(-1).mean(0).float(), frequencies, rtol=0, atol=1e-7)


@pytest.mark.parametrize("smoothing", [False, True])
@pytest.mark.parametrize("drawn", [(0.3, 0.9, 0.5), (-0.3, 1.0, 0.0), (1.0, -0.3, 0.0), (-0.3, -0.3, 0.0)])
def test_beta_of_two_classes_is_its_definition(smoothing: bool, drawn: tuple[float, float, float]) -> None:
    z, _ = batch(2)
    s = margin(z)
    log_p, log_not = -np.logaddexp(0, -s), -np.logaddexp(0, s)
    truth = expit(drawn[0] * log_p - drawn[1] * log_not + drawn[2])
    y = torch.from_numpy(np.random.default_rng(0).random(len(s)) < truth).long()
    positive, negative = int(y.sum()), int((1 - y).sum())
    yes = np.where(y == 1, (positive + 1) / (positive + 2), 1 / (negative + 2)) if smoothing else y.numpy()

    def definition(x: np.ndarray) -> float:
        a, b, c = x
        logit = a * log_p - b * log_not + c
        return float(np.mean(np.logaddexp(0, logit) - yes * logit))

    best = minimize(definition, [0.3, 0.3, 0.0], bounds=[(0, None), (0, None), (None, None)], tol=1e-15)
    best = minimize(definition, best.x, bounds=[(0, None), (0, None), (None, None)], method="Nelder-Mead", tol=1e-14)
    beta = BetaCalibration(smoothing=smoothing).double().fit(z, y)
    ours = np.array([beta.a[1].item(), beta.b[1].item(), beta.c[1].item()])
    np.testing.assert_allclose(ours, best.x, rtol=1e-4, atol=1e-5)  # differences instead of a gradient
    assert definition(ours) <= definition(best.x) + 1e-14
    assert (ours[:2] == 0).tolist() == [drawn[0] < 0, drawn[1] < 0]


def test_histogram_is_the_mean_of_each_bin() -> None:
    z, y = batch(2)
    p = z.softmax(-1)[:, 1].numpy()
    wanted = binned_statistic(p, y.numpy(), "mean", bins=10, range=(0, 1)).statistic
    binning = HistogramBinning(num_bins=10, floor=0.0).double().fit(z, y)
    np.testing.assert_allclose(binning.values[1].numpy(), wanted, atol=1e-15)
    place = np.minimum((p * 10).astype(int), 9)
    np.testing.assert_allclose(binning(z).softmax(-1)[:, 1].numpy(), wanted[place], atol=1e-15)


def test_histogram_by_mass_has_the_quantiles_of_numpy() -> None:
    z, y = batch(2)
    binning = HistogramBinning(num_bins=10, strategy="mass").double().fit(z, y)
    wanted = np.quantile(margin(z), np.arange(1, 10) / 10, method="higher")
    np.testing.assert_array_equal(binning.edges[1].numpy(), wanted)
