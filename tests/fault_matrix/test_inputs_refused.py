"""Cases 7, 9, 11, 12, 20, 22 and 23 of the fault matrix: what cannot be logits is one clear fault, and the run goes on.

Told once, counted, and after the third the capture is switched off; the weights are those of a run without the suite.
"""

import re
import warnings

import pytest
import torch
from helpers.spoiled import batch, labels, run, told

from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.capture.observation import Observation
from logitwatch.states.protocol import pack


def sparse(layout):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CSR is in beta, says torch
        return batch().to_sparse(layout=layout)


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantised tensors will be removed, says torch
        return torch.quantize_per_tensor(batch(), 0.1, 0, torch.qint8)


def nested(layout):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype, says torch
        return torch.nested.nested_tensor([batch(3), batch(13)], layout=layout)


def assert_refused(z, error, words, folder, caplog, *, ours=True):
    """In words of ours by `Observation.of` and, where ``ours``, in what is told of a run."""
    for y in (labels(), None):
        with pytest.raises(error, match=f"^{re.escape(words)}"):
            Observation.of(z, y)
    found = run(lambda *_: (z, labels()), folder)
    assert found.faults == found.record["logitwatch/faults"] == 3
    assert not any(tag.startswith(("logits/", "calibration/")) for tag in found.record)
    first, off = told(caplog)
    assert "capture failed 3 times and is switched off" in off.getMessage()
    assert not ours or str(first.exc_info[1]).startswith(words)


@pytest.mark.parametrize("rows", [16, 0])
def test_case_07_no_classes_are_a_fault(rows, tmp_path, caplog):
    words = f"logits must have at least one class, got shape ({rows}, 0) with classes on axis 1"
    assert_refused(batch(rows, 0), ValueError, words, tmp_path, caplog)


def test_case_07_a_fault_now_and_then_loses_its_own_rows_alone(tmp_path):
    seen = []

    def spoil(z, y):
        seen.append(len(z))
        return (z[:, :0] if len(seen) == 2 else z), y

    found = run(spoil, tmp_path)
    assert found.faults == 1
    assert (found.record["logits/train/rows"], found.record["logits/val/rows"]) == (48, 32)


def test_case_09_a_number_is_a_fault(tmp_path, caplog):
    words = "logits must have classes on axis -1, got shape ()"
    assert_refused(batch()[0, 0], ValueError, words, tmp_path, caplog)


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.complex128])
def test_case_11_truth_values_and_complex_numbers_are_a_typed_fault(dtype, tmp_path, caplog):
    words = f"logits must be real numbers, got {dtype}"
    assert_refused(batch().to(dtype), TypeError, words, tmp_path, caplog)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_case_12_sparse_logits_are_a_typed_fault(layout, tmp_path, caplog):
    words = f"logits must be a dense tensor, got torch.float32 in {layout}"
    assert_refused(sparse(layout), TypeError, words, tmp_path, caplog)


def test_case_12_quantised_logits_are_a_typed_fault(tmp_path, caplog):
    words = "logits must be a dense tensor, got torch.qint8"
    assert_refused(quantised(), TypeError, words, tmp_path, caplog)


def test_case_20_a_tensor_without_values_is_a_fault_in_a_run(tmp_path, caplog):
    found = run(lambda z, y: (z.to("meta"), y.to("meta")), tmp_path)
    assert found.faults == found.record["logitwatch/faults"] == 3
    assert not any(tag.startswith(("logits/", "calibration/")) for tag in found.record)
    first, _ = told(caplog)
    assert "meta" in str(first.exc_info[1]).lower()


def test_case_20_outside_of_a_run_it_has_a_state_without_values():
    state = LogitMonitor().summary(*(Observation.of(batch().to("meta")),) * 2, None, histograms=True)
    assert {t.device.type for t in pack(state)} == {"meta"}


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_case_22_nested_logits_are_a_typed_fault_with_the_remedy(layout, tmp_path, caplog):
    words = "logits must be a dense tensor, got a nested one; pad it and hand over a mask"
    assert_refused(nested(layout), TypeError, words, tmp_path, caplog)


@pytest.mark.parametrize("z", [batch().tolist(), (batch(), batch()), {"logits": batch()}, None], ids=type)
def test_case_23_what_is_handed_over_and_no_tensor_is_a_typed_fault(z, tmp_path, caplog):
    # In a run Python says it first: it has no device.
    words = f"logits must be a tensor, got {type(z).__name__}"
    assert_refused(z, TypeError, words, tmp_path, caplog, ours=False)


def test_case_23_yes_or_no_logits_handed_over_as_a_row_are_not_taken_for_one():
    with pytest.raises(ValueError, match=r"class indices of shape \(\) or probabilities of shape \(16,\), got shape"):
        Observation.of(batch()[:, 0], labels(15))
    seen = Observation.of(batch()[:, 0], (labels() > 4).float())
    assert seen.bad_target.tolist() == [True]
