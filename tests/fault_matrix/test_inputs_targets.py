"""Case 26 of the fault matrix: a row with a target that is not one is counted as such, and is in no number."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.spoiled import COUNTS, accounted, batch, labels, read_outs, run, sketch, summary, told

from logitwatch.capture.observation import Observation
from logitwatch.states.protocol import pack

NAN, INF = math.nan, math.inf
EXTREMES = {"max": batch().max().item(), "min": batch().min().item()}  # of every row, whatever its target
# Two sums of the same few numbers in float64, added in another order.
ROUNDING = {"rel": 1e-12, "abs": 1e-12}


def test_case_26_ignored_rows_are_ignored_and_in_no_number():
    y = labels()
    y[0] = -100
    clean = read_outs(summary(batch()[1:], y[1:])) | {"rows": 16, "ignored": 1}
    assert read_outs(summary(batch(), y)) == pytest.approx(clean | EXTREMES)
    state = summary(batch(), torch.full((16,), -100))
    assert accounted(state)["ignored"] == 16
    assert set(read_outs(state)) == {*COUNTS, "max", "min"}


@pytest.mark.parametrize("target", [10, -1, -101, 10**9])
def test_case_26_a_target_that_is_no_class_is_counted_and_never_a_number(target):
    y = labels()
    y[0] = target
    state = summary(batch(), y)
    assert accounted(state)["bad_target"] == 1
    clean = read_outs(summary(batch()[1:], y[1:])) | {"rows": 16, "bad_target": 1}
    assert read_outs(state) == pytest.approx(clean | EXTREMES, **ROUNDING)
    calibration = sketch(batch(), y)
    assert (int(calibration.count), int(calibration.bad_target)) == (15, 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint64])
def test_case_26_targets_of_any_whole_type_are_the_same_targets(dtype):
    z, y = batch(classes=300), torch.tensor([0, 255, 156, 44, *range(100, 112)])
    one, other = summary(z, y.to(dtype)), summary(z, y)
    assert accounted(one) == {"rows": 16, "nonfinite": 0, "ignored": 0, "bad_target": 0}
    assert torch.equal(pack(one).sums, pack(other).sums)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_case_26_a_one_hot_of_any_type_gives_the_numbers_of_the_index(dtype):
    one_hot = F.one_hot(labels(), 10).to(dtype)
    # The same sums with nine zeros in them.
    assert read_outs(summary(batch(), one_hot)) == pytest.approx(read_outs(summary(batch())), rel=1e-6, abs=1e-6)


def test_case_26_soft_labels_have_the_loss_of_torch_whatever_they_were_rounded_to():
    z, q = batch(), batch(seed=1).softmax(-1)
    for y in (q, q.bfloat16()):
        # Sums over ten classes in float32 and float64.
        expected = F.cross_entropy(z.double(), y.double()).item()
        assert read_outs(summary(z, y))["nll"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("row", [[NAN] * 10, [INF] + [0.0] * 9, [0.0] * 10, [1.0] * 10])
def test_case_26_soft_labels_that_are_no_distribution_are_counted_and_never_a_number(row):
    y = F.one_hot(labels(), 10).float()
    y[0] = torch.tensor(row)
    state, calibration = summary(batch(), y), sketch(batch(), y)
    assert accounted(state)["bad_target"] == int(calibration.bad_target) == 1
    clean = read_outs(summary(batch()[1:], y[1:])) | {"rows": 16, "bad_target": 1}
    assert read_outs(state) == pytest.approx(clean | EXTREMES, **ROUNDING)
    assert calibration.nll().item() == pytest.approx(clean["nll"], rel=1e-6)  # sums of float32 in another order


@pytest.mark.parametrize("target", [NAN, INF, -1.0, 2.0])
def test_case_26_a_probability_of_yes_outside_zero_and_one_is_counted_and_never_a_number(target):
    z, y = batch()[:, 0], torch.full((16,), 0.5)
    y[0] = target
    state, calibration = summary(z, y, binary=True), sketch(z, y, binary=True)
    assert accounted(state)["bad_target"] == int(calibration.bad_target) == 1
    assert read_outs(state)["nll"] == pytest.approx(read_outs(summary(z[1:], y[1:], binary=True))["nll"], **ROUNDING)


TARGETS = {
    "wrong length": (labels(15), ValueError, "targets must be class indices of shape (16,) or probabilities of shape"),
    "wrong width": (torch.zeros(16, 9), ValueError, "targets must be class indices of shape (16,) or probabilities"),
    "floats for indices": (labels().float(), TypeError, "must be class indices, integers, got torch.float32"),
    "complex": (labels().to(torch.complex64), TypeError, "targets must be real numbers, got torch.complex64"),
    "sparse": (labels().to_sparse(), TypeError, "targets must be a dense tensor, got torch.int64 in torch.sparse_coo"),
    "a list": (labels().tolist(), TypeError, "targets must be a tensor, got list"),
    "elsewhere": (labels().to("meta"), ValueError, "targets must be on cpu as the logits are, got meta"),
}


@pytest.mark.parametrize(("y", "error", "words"), TARGETS.values(), ids=TARGETS.keys())
def test_case_26_targets_that_belong_to_no_row_are_a_fault_and_never_a_number(y, error, words, tmp_path, caplog):
    found = run(lambda z, _: (z, y), tmp_path)
    assert found.faults == found.record["logitwatch/faults"] == 3
    assert not any(tag.startswith(("logits/", "calibration/")) for tag in found.record)
    first, _ = told(caplog)
    assert type(first.exc_info[1]) is error
    assert words in str(first.exc_info[1])


def test_case_26_targets_of_a_transposed_batch_are_not_taken_for_those_of_the_batch():
    with pytest.raises(ValueError, match=r"class indices of shape \(2, 3\) or .*, got shape \(3, 2\)"):
        Observation.of(batch(6).view(2, 3, 10), labels(6).view(3, 2))
