import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.classwise_calibration import ClasswiseCalibration
from logitwatch.states.protocol import pack


def predictions(rows: int = 600, classes: int = 5, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    labels = (logits / 2).softmax(-1).multinomial(1, generator=generator).squeeze(1)
    return logits, labels


def binned_error(p: Tensor, y: Tensor, num_bins: int) -> float:
    """Sum over bins ``[lo, hi)``, the last closed, of the size of the summed gap, by plain comparison."""
    total = 0.0
    for i in range(num_bins):
        inside = (p >= i / num_bins) & ((p < (i + 1) / num_bins) | (i == num_bins - 1))
        total += (p[inside] - y[inside]).sum().abs().item()
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_bins", [1, 10, 15, 17])
def test_classwise_error_is_the_gap_of_each_class_in_bins(num_bins: int, dtype: torch.dtype) -> None:
    z, y = predictions()
    z = z.to(dtype)
    seen = ClasswiseCalibration.of(z, y, num_bins=num_bins)
    p, hot = z.softmax(-1).double(), F.one_hot(y, 5).double()
    errors = [binned_error(p[:, k], hot[:, k], num_bins) / 600 for k in range(5)]
    tolerance = {"abs": 1e-6 if dtype == torch.float32 else 1e-12}  # float32 probabilities may be an ulp apart
    assert seen.class_errors().tolist() == pytest.approx(errors, **tolerance)
    assert seen.classwise_ece().item() == pytest.approx(sum(errors) / 5, **tolerance)
    weighted = sum(e * share for e, share in zip(errors, hot.mean(0).tolist(), strict=True))
    assert seen.classwise_ece(weighted=True).item() == pytest.approx(weighted, **tolerance)
    assert seen.class_gaps().tolist() == pytest.approx((p - hot).mean(0).tolist(), **tolerance)


@pytest.mark.parametrize("num_bins", [1, 15])
def test_top_label_error_is_that_of_the_rows_that_predict_each_class(num_bins: int) -> None:
    z, y = predictions()
    z = z.double()
    seen = ClasswiseCalibration.of(z, y, num_bins=num_bins)
    confidence, predicted = z.softmax(-1).max(-1)
    right = (predicted == y).double()
    sums = [binned_error(confidence[predicted == k], right[predicted == k], num_bins) for k in range(5)]
    sizes = [(predicted == k).sum().item() for k in range(5)]
    assert seen.top_label_errors().tolist() == pytest.approx([a / n for a, n in zip(sums, sizes, strict=True)])
    assert seen.top_label_ece().item() == pytest.approx(sum(sums) / 600)
    gaps = [(confidence - right)[predicted == k].mean().item() for k in range(5)]
    assert seen.top_label_gaps().tolist() == pytest.approx(gaps)


@pytest.mark.parametrize("seed", range(5))
def test_the_top_label_error_is_at_least_the_ece_at_the_same_bins(seed: int) -> None:
    z, y = predictions(seed=seed)
    assert ClasswiseCalibration.of(z, y).top_label_ece() >= CalibrationSketch.of(z, y).ece() - 1e-12


def test_a_class_that_is_overconfident_is_named() -> None:
    z, y = predictions()
    z[:, 3] += 1.5
    seen = ClasswiseCalibration.of(z, y)
    assert seen.class_gaps().argmax().item() == 3
    assert seen.top_label_gaps().nan_to_num(-1).argmax().item() == 3
    assert seen.class_gaps().sum().item() == pytest.approx(0, abs=1e-6)  # probabilities and shares both sum to 1


def test_probabilities_of_zero_and_one_have_the_first_and_the_last_bin() -> None:
    seen = ClasswiseCalibration.of(torch.tensor([[0.0, -math.inf], [200.0, 0.0]]), torch.tensor([0, 1]))
    assert seen.counts[0].nonzero().flatten().tolist() == [14]
    assert seen.counts[1].nonzero().flatten().tolist() == [0]
    assert seen.top_hits.sum().item() == 1


def test_rows_seen_are_counted_ignored_nonfinite_or_without_a_target() -> None:
    z, y = predictions(8)
    z[0, 0], z[1, 1], z[2] = torch.nan, torch.inf, -torch.inf
    y[2], y[3], y[4], y[5] = -100, -100, 5, -1
    seen = ClasswiseCalibration.of(z, y)
    assert [part.item() for part in (seen.count, seen.nonfinite, seen.ignored, seen.bad_target)] == [2, 3, 1, 2]
    kept = ClasswiseCalibration.of(z[6:], y[6:])
    for field in ("counts", "hits", "confidences", "top_counts", "top_hits", "top_confidences"):
        torch.testing.assert_close(getattr(seen, field), getattr(kept, field), rtol=1e-14, atol=0)


def test_any_class_index_can_be_the_ignored_one() -> None:
    z, y = predictions(50)
    seen = ClasswiseCalibration.of(z, y, ignore_index=0)
    assert seen.ignored.item() == (y == 0).sum()
    assert torch.equal(seen.counts, ClasswiseCalibration.of(z[y != 0], y[y != 0]).counts)


def test_soft_targets_are_labelled_by_their_largest_and_nan_names_none() -> None:
    z, y = predictions(20)
    soft = 0.9 * F.one_hot(y, 5) + 0.02
    torch.testing.assert_close(pack(ClasswiseCalibration.of(z, soft)).sums, pack(ClasswiseCalibration.of(z, y)).sums)
    soft[0, 1] = math.nan
    assert ClasswiseCalibration.of(z, soft).bad_target.item() == 1


def test_many_rows_are_taken_in_chunks_that_add_up() -> None:
    z, y = predictions(3000, 100)
    merged = ClasswiseCalibration.empty(100)
    for part, labels in zip(z.split(700), y.split(700), strict=True):
        merged = merged.merge(ClasswiseCalibration.of(part, labels))
    whole = ClasswiseCalibration.of(z, y)
    assert torch.equal(merged.counts, whole.counts)
    torch.testing.assert_close(pack(merged).sums, pack(whole).sums, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("classes", "bins"), [(2, 15), (1456, 15), (2184, 10), (21845, 1)])
def test_the_largest_states_are_under_a_mebibyte(classes: int, bins: int) -> None:
    assert pack(ClasswiseCalibration.empty(classes, bins)).sums.nbytes <= 2**20 + 3 * 8


def test_nothing_seen_reads_nan() -> None:
    nothing = ClasswiseCalibration.empty(3)
    for read_out in ("class_errors", "classwise_ece", "top_label_errors", "top_label_ece", "class_gaps", "prevalence"):
        assert getattr(nothing, read_out)().isnan().all()


@pytest.mark.parametrize(
    ("classes", "bins", "message"),
    [
        (1457, 15, "1457 classes in 15 bins would need more than 1 MiB; expected at most 14 bins"),
        (50257, 15, "expected at most 21845 classes"),
        (1, 15, "got 1 classes"),
        (3, 0, "got 3 classes and 0 bins"),
    ],
)
def test_a_state_of_another_size_is_refused(classes: int, bins: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClasswiseCalibration.empty(classes, bins)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_how_the_logits_lie_in_memory_is_of_no_account(dtype: torch.dtype) -> None:
    z, y = predictions()
    z = z.to(dtype)
    lying = z.t().contiguous().t()
    assert torch.equal(pack(ClasswiseCalibration.of(lying, y)).sums, pack(ClasswiseCalibration.of(z, y)).sums)
