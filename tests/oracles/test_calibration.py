"""Calibration against torchmetrics, relplot and scikit-learn where they are right, and torchmetrics where it is not."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from logitwatch.functional.positive_rows import positive_rows
from logitwatch.states.calibration_sketch import CalibrationSketch

CLASSES = 10


def predictions(rows: int = 2000, *, scale: float = 1.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(rows, CLASSES, generator=generator)
    # Right more often the more confident, though less often than it claims.
    targets = torch.distributions.Categorical(logits=logits / 1.5).probs.multinomial(1, generator=generator)
    return logits, targets.squeeze(1)


def of_torchmetrics(logits: Tensor, targets: Tensor, num_bins: int = 15, norm: str = "l1") -> float:
    return multiclass_calibration_error(logits, targets, CLASSES, n_bins=num_bins, norm=norm).item()


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("num_bins", [1, 10, 15, 20, 100])
def test_ece_is_that_of_torchmetrics(norm: str, num_bins: int) -> None:
    logits, targets = predictions()
    ours = CalibrationSketch.of(logits, targets).ece(num_bins, norm).item()
    # torchmetrics sums 2000 numbers in float32.
    assert ours == pytest.approx(of_torchmetrics(logits, targets, num_bins, norm), rel=1e-4, abs=1e-6)


@pytest.mark.filterwarnings("ignore")  # at import, of matplotlib and others
@pytest.mark.parametrize("num_bins", [10, 15])
def test_ece_is_that_of_relplot(num_bins: int) -> None:
    relplot = pytest.importorskip("relplot")
    logits, targets = predictions()
    c, prediction = logits.double().softmax(-1).max(-1)
    theirs = relplot.metrics.binnedECE(c.numpy(), (prediction == targets).double().numpy(), nbins=num_bins)
    ours = CalibrationSketch.of(logits.double(), targets).ece(num_bins).item()
    assert ours == pytest.approx(theirs, rel=1e-12)  # both in float64


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("num_bins", [10, 15])
def test_the_error_of_the_probability_of_yes_is_that_of_torchmetrics(norm: str, num_bins: int) -> None:
    generator = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(2000, generator=generator)
    y = (torch.rand(2000, generator=generator) < (z + 1).sigmoid()).long()
    ours = CalibrationSketch.of_rows(*positive_rows(z, y)).ece(num_bins, norm).item()
    theirs = binary_calibration_error(z, y, n_bins=num_bins, norm=norm).item()
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)  # torchmetrics sums 2000 numbers in float32
    # Its documentation says "top-label", which is another number.
    pair = torch.stack((torch.zeros_like(z), z), -1)
    assert abs(CalibrationSketch.of(pair, y).ece(num_bins, norm).item() - theirs) > 1e-3


def test_batches_of_binary_logits_between_zero_and_one_are_taken_for_probabilities_by_torchmetrics_alone() -> None:
    z = torch.rand(500, generator=torch.Generator().manual_seed(0))
    y = (torch.rand(500, generator=torch.Generator().manual_seed(1)) < z.sigmoid()).long()
    assert CalibrationSketch.of_rows(*positive_rows(z, y)).ece().item() < 0.1
    # torchmetrics issues 1604, 2195 and others: when this fails the guess is gone and the test should go.
    assert binary_calibration_error(z, y).item() > 0.15


@pytest.mark.filterwarnings("ignore")  # at import, of matplotlib and others
@pytest.mark.parametrize(("rows", "scale"), [(300, 1.5), (2000, 1.6), (20_000, 1.5), (20_000, 4.0)])
def test_the_smooth_reliability_curve_is_that_of_relplot(rows: int, scale: float) -> None:
    relplot = pytest.importorskip("relplot")
    logits, targets = predictions(rows, scale=scale)
    c, prediction = logits.double().softmax(-1).max(-1)
    theirs = relplot.prepare_rel_diagram(
        c.numpy(), (prediction == targets).double().numpy(), plot_confidence_band=False, report_CE_std=False
    )
    ours = CalibrationSketch.of(logits.double(), targets).smooth_reliability_curve()
    assert ours.bandwidth.item() == theirs["sigma"]
    np.testing.assert_allclose(ours.confidence, theirs["mesh"], rtol=1e-12)
    np.testing.assert_allclose(ours.density, theirs["density"], rtol=1e-9, atol=2e-5)  # they add 1e-5
    known = ~ours.accuracy.isnan().numpy()
    assert known.sum() > 100
    # They share out whether a row is right, we share out its gap; a kernel holds ten points.
    np.testing.assert_allclose(ours.accuracy[known], theirs["mu"][known], rtol=0, atol=1e-4)


def test_averages_are_those_of_scikit_learn() -> None:
    logits, targets = predictions()
    p = logits.double().softmax(-1).numpy()
    seen = CalibrationSketch.of(logits.double(), targets)
    labels = np.arange(CLASSES)
    assert seen.nll().item() == pytest.approx(sklearn_metrics.log_loss(targets, p, labels=labels), rel=1e-12)
    assert seen.accuracy().item() == pytest.approx(sklearn_metrics.accuracy_score(targets, p.argmax(-1)), rel=1e-15)


def test_the_brier_score_of_two_classes_is_twice_that_of_scikit_learn() -> None:
    z = 2 * torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (torch.rand(500, generator=torch.Generator().manual_seed(1)) < 0.5).long()
    ours = CalibrationSketch.of(torch.stack((torch.zeros_like(z), z), -1), y).brier_score().item()
    assert ours == pytest.approx(2 * sklearn_metrics.brier_score_loss(y, z.sigmoid()), rel=1e-12)


def test_a_confidence_of_exactly_one_falls_into_the_last_bin_and_not_into_one_of_its_own() -> None:
    # torchmetrics issue 3510. Confidences 0.95 (right) and 1.0 (wrong) share a bin: |0.975 - 0.5| = 0.475.
    logits = torch.full((2, CLASSES), -200.0)
    logits[0, 0], logits[0, 1] = torch.tensor([0.95, 0.05]).log()
    logits[1, 0] = 200.0
    targets = torch.tensor([0, 1])
    assert CalibrationSketch.of(logits, targets).ece().item() == pytest.approx(0.475, abs=1e-6)
    # |0.95 - 1| / 2 + |1 - 0| / 2: when this fails the bug is mended and the test should go.
    assert of_torchmetrics(logits, targets) == pytest.approx(0.525, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_as_good_as_the_same_values_in_float32(dtype: torch.dtype) -> None:
    # Confidences near 0.95 (right) and 0.9999 (wrong). torchmetrics takes the softmax in the half type, where the
    # second rounds to 1 and is given a bin of its own.
    logits = torch.full((2, CLASSES), -60.0)
    logits[:, :2] = torch.tensor([[0.95, 0.05], [0.9999, 0.0001]]).log()
    half, targets = logits.to(dtype), torch.tensor([0, 1])
    ours, wanted = CalibrationSketch.of(half, targets), CalibrationSketch.of(half.float(), targets)
    assert torch.equal(ours.cells.counts, wanted.cells.counts)
    assert ours.ece().item() == wanted.ece().item() == pytest.approx(0.475, abs=2e-3)  # bfloat16 has three digits
    assert of_torchmetrics(half.float(), targets) == pytest.approx(wanted.ece().item(), abs=1e-6)
    assert of_torchmetrics(half, targets) == pytest.approx(0.525, abs=3e-3)


def test_rows_past_the_last_count_of_float32_still_count() -> None:
    # A float32 count of ones stops at 2 ** 24, as does that of torchmetrics, whose error then reads 0.
    ones = torch.ones(1).mul(2**24)
    assert (ones + 1).item() == 2**24
    right = CalibrationSketch.of(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    wrong = CalibrationSketch.of(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
    for _ in range(26):
        right, wrong = right.merge(right), wrong.merge(wrong)
    both = right.merge(wrong)
    assert both.count.item() == 2**27
    assert both.ece().item() == pytest.approx(torch.tensor(2.0).sigmoid().item() - 0.5, rel=1e-6)  # float32 rows
