import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.position_calibration import BUCKETS, PositionCalibration


def sequences(batch: int = 6, length: int = 70, classes: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(batch, length, classes, generator=generator)
    return logits, torch.randint(classes, (batch, length), generator=generator)


BOUNDS = [(0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 128)]


def test_each_bucket_is_as_if_only_its_positions_had_been_seen() -> None:
    z, y = sequences()
    y[0, ::3] = -100
    seen = PositionCalibration.of(z, y)
    for bucket, (low, high) in enumerate(BOUNDS):
        alone = CalibrationSketch.of(z[:, low:high], y[:, low:high])
        assert seen.count[bucket].item() == alone.count.item()
        for ours, theirs in (
            (seen.ece(), alone.ece()),
            (seen.nll(), alone.nll()),
            (seen.accuracy(), alone.accuracy()),
            (seen.gap(), alone.mean_confidence() - alone.accuracy()),
        ):
            assert ours[bucket].item() == pytest.approx(theirs.item(), abs=1e-12)  # float64 sums
    assert seen.ignored.item() == 24
    assert seen.count.sum().item() == 6 * 70 - 24
    assert seen.ece()[len(BOUNDS) :].isnan().all()


def test_the_nll_of_all_buckets_is_that_of_torch() -> None:
    z, y = sequences()
    y[2, 5:] = -100
    seen = PositionCalibration.of(z, y)
    wanted = F.cross_entropy(z.double().transpose(1, 2), y).item()
    assert (seen.nll_totals.sum() / seen.count.sum()).item() == pytest.approx(wanted, rel=1e-6)  # float32 rows


def test_the_buckets_start_where_they_say() -> None:
    starts = PositionCalibration.first_positions()
    assert len(starts) == BUCKETS
    position = torch.tensor([p for start in starts for p in (start, max(0, start - 1))])
    zero = torch.zeros(len(position))
    for bucket, start in enumerate(starts):
        one = PositionCalibration.of_rows(torch.tensor([start]), zero[:1], zero[:1] > 0, zero[:1])
        assert one.count.nonzero().item() == bucket
    far = PositionCalibration.of_rows(torch.tensor([10**9]), zero[:1], zero[:1] > 0, zero[:1])
    assert far.count.nonzero().item() == BUCKETS - 1
    assert PositionCalibration.of_rows(position, zero, zero > 0, zero).count.sum().item() == len(position)


def test_the_rest_of_a_sequence_keeps_its_positions() -> None:
    z, y = sequences()
    merged = PositionCalibration.of(z[:, :33], y[:, :33]).merge(
        PositionCalibration.of(z[:, 33:], y[:, 33:], first_position=33)
    )
    whole = PositionCalibration.of(z, y)
    assert torch.equal(merged.counts, whole.counts)
    assert torch.equal(merged.hits, whole.hits)
    torch.testing.assert_close(merged.confidences, whole.confidences, rtol=1e-12, atol=0)


def test_one_sequence_needs_no_batch() -> None:
    z, y = sequences(batch=1)
    assert torch.equal(PositionCalibration.of(z[0], y[0]).counts, PositionCalibration.of(z, y).counts)


def test_rows_seen_are_counted_ignored_nonfinite_or_without_a_target() -> None:
    z, y = sequences(1, 8)
    z[0, 0, 0], z[0, 1, 1], z[0, 2] = torch.nan, torch.inf, -torch.inf
    y[0, 2:6] = torch.tensor([-100, -100, 7, -1])
    seen = PositionCalibration.of(z, y)
    assert [n.item() for n in (seen.count.sum(), seen.nonfinite, seen.ignored, seen.bad_target)] == [2, 3, 1, 2]
    assert seen.count.tolist()[:4] == [0, 0, 0, 2]
    assert seen.nll()[3].isfinite()


def test_any_class_index_can_be_the_ignored_one() -> None:
    z, y = sequences()
    seen = PositionCalibration.of(z, y, ignore_index=3)
    assert seen.ignored.item() == (y == 3).sum()
    assert seen.count.sum() == (y != 3).sum()


def test_an_impossible_target_spoils_its_own_bucket_alone() -> None:
    z, y = sequences()
    z[0, 9, y[0, 9]] = -math.inf
    nll = PositionCalibration.of(z, y).nll()
    assert nll[4].item() == math.inf
    assert nll[:4].isfinite().all()


def test_logits_without_positions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[..., seq, classes\], got \(5,\)"):
        PositionCalibration.of(torch.zeros(5), torch.tensor(1))
