"""What softmax promises: nothing changes with a shift, nothing with a class that is not there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import CLASSES, assert_same_state, batches, eighths, finite_logits, logits
from torch import Tensor

from logitwatch.functional import scores, uncertainty
from logitwatch.functional.row_statistics import RowStatistics, row_statistics
from logitwatch.states.calibration_sketch import CalibrationSketch

Batch = tuple[Tensor, Tensor]
INVARIANT = [uncertainty.softmax_entropy, uncertainty.confidence, uncertainty.effective_classes, scores.logit_margin]
SHIFTING = [uncertainty.log_partition, uncertainty.energy]
# Quantities of RowStatistics that do not move with the logits, and those that move with them.
INVARIANT_FIELDS = set(RowStatistics._fields) - {"max_logit", "min_logit", "mean_logit", "log_partition"}
# Of logits that are multiples of 1/8 below 2000 the shifted ones are exact, so nothing may differ in the last bit.
exact = eighths(1000)
shifts = st.integers(-1000, 1000)


@pytest.mark.parametrize("quantity", INVARIANT)
@given(z=logits(min_rows=1, elements=exact), shift=shifts)
def test_a_shift_of_all_logits_changes_no_bit(quantity, z: Tensor, shift: int) -> None:
    torch.testing.assert_close(quantity(z + shift), quantity(z), rtol=0, atol=0)


@pytest.mark.parametrize("quantity", SHIFTING)
@given(z=logits(min_rows=1, elements=exact), shift=shifts)
def test_the_log_partition_shifts_with_the_logits(quantity, z: Tensor, shift: int) -> None:
    # Numbers up to 2000 in float32 are rounded to 1.2e-4.
    torch.testing.assert_close(quantity(z + shift), quantity(z) + shift, rtol=0, atol=3e-4)


@given(batch=batches(min_rows=1, elements=exact), shift=shifts)
def test_row_statistics_that_promise_shift_invariance_keep_every_bit(batch: Batch, shift: int) -> None:
    z, y = batch
    before, after = row_statistics(z, y), row_statistics(z + shift, y)
    for name in sorted(INVARIANT_FIELDS):
        assert torch.equal(getattr(after, name).nan_to_num(-1), getattr(before, name).nan_to_num(-1)), name


@given(batch=batches(elements=exact), shift=shifts)
def test_calibration_does_not_change_with_a_shift(batch: Batch, shift: int) -> None:
    z, y = batch
    assert_same_state(CalibrationSketch.of(z + shift, y), CalibrationSketch.of(z, y), tolerance=0)


@given(batch=batches(min_rows=1, elements=finite_logits), column=st.integers(0, CLASSES))
def test_an_absent_class_is_as_good_as_removed(batch: Batch, column: int) -> None:
    z, y = batch
    absent = torch.full((len(z), 1), -torch.inf)
    wider = torch.cat((z[:, :column], absent, z[:, column:]), dim=1)
    shifted = torch.where((y >= column) & (y < CLASSES), y + 1, torch.where(y == CLASSES, -1, y))
    before, after = row_statistics(z, y), row_statistics(wider, shifted)
    for name in set(RowStatistics._fields) - {"prediction"}:
        # The same numbers are added, perhaps in another order.
        scale = 1e5 if name == "squares" else 1.0
        torch.testing.assert_close(
            getattr(after, name).double(),
            getattr(before, name).double(),
            rtol=1e-5,
            atol=1e-6 * scale,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@given(z=logits(min_rows=1, elements=finite_logits))
def test_quantities_stay_in_their_ranges(z: Tensor) -> None:
    rows = row_statistics(z, torch.zeros(len(z), dtype=torch.int64))
    slack = 1e-5  # float32 sums of four terms
    assert ((rows.confidence >= 1 / CLASSES - slack) & (rows.confidence <= 1)).all()
    assert ((rows.entropy >= -slack) & (rows.entropy <= torch.tensor(CLASSES).log() + slack)).all()
    assert ((rows.brier >= -slack) & (rows.brier <= 2 + slack)).all()
    assert (rows.nll >= 0).all()
    assert (rows.margin >= 0).all()
    assert (rows.min_logit <= rows.mean_logit + 1e-4).all()
    assert (rows.mean_logit <= rows.max_logit + 1e-4).all()
