"""What holds between the read-outs of any rows, and what any change of the rows that tells nothing new leaves alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitwatch.states.calibration_sketch import CalibrationSketch

Rows = tuple[Tensor, Tensor]
BY_BINS = ("ece", "overconfidence", "underconfidence", "adaptive_ece", "debiased_l1")
BY_ORDER = ("aurc", "augrc", "auroc")  # of counts alone, so that not a bit may differ where these are equal
WITHOUT_BINS = ("accuracy", "mean_confidence", "smooth_ece", "ks_error", "kuiper_error", *BY_ORDER)
# Read-outs of the shares of rows, for which twice the same rows are the same.
OF_SHARES = ("ece", "overconfidence", "underconfidence", "adaptive_ece", "ks_error", "kuiper_error", "augrc", "auroc")

confidence = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))


@st.composite
def rows(draw: st.DrawFn, *, max_size: int = 40) -> Rows:
    """Confidences, some of them equal, and whether each is right."""
    drawn = draw(st.lists(st.tuples(confidence, st.booleans()), min_size=1, max_size=max_size))
    return torch.tensor([c for c, _ in drawn], dtype=torch.float64), torch.tensor([right for _, right in drawn])


def sketch(c: Tensor, right: Tensor, mask: Tensor | None = None) -> CalibrationSketch:
    zero = torch.zeros_like(c)
    return CalibrationSketch.of_rows(c, right, zero, zero, mask)


def values(seen: CalibrationSketch, names: tuple[str, ...] = BY_BINS + WITHOUT_BINS) -> dict[str, float]:
    found = {name: getattr(seen, name)().item() for name in names}
    return {name: -1.0 if value != value else value for name, value in found.items()}


def approximately(wanted: dict[str, float]) -> dict[str, float]:
    return pytest.approx(wanted, abs=1e-11)  # float64 sums of up to 40 numbers below 1


@given(data=rows(), cuts=st.lists(st.integers(0, 40), max_size=3), seed=st.integers(0, 2**16))
def test_no_read_out_depends_on_the_order_of_rows_or_on_how_they_are_split(
    data: Rows, cuts: list[int], seed: int
) -> None:
    c, right = data
    merged = CalibrationSketch.empty()
    for part in torch.randperm(len(c), generator=torch.Generator().manual_seed(seed)).tensor_split(sorted(cuts)):
        merged = merged.merge(sketch(c[part], right[part]))
    assert values(merged) == approximately(values(sketch(c, right)))
    assert values(merged, BY_ORDER) == values(sketch(c, right), BY_ORDER)


@given(data=rows(), other=rows())
def test_rows_that_are_masked_change_nothing(data: Rows, other: Rows) -> None:
    both = torch.cat((data[0], other[0])), torch.cat((data[1], other[1]))
    kept = sketch(*both, torch.arange(len(both[0])) < len(data[0]))
    assert values(kept) == approximately(values(sketch(*data)))
    assert kept.ignored.item() == len(other[0])


@given(data=rows())
def test_twice_the_same_rows_are_the_same_shares(data: Rows) -> None:
    seen = sketch(*data)
    assert values(seen.merge(seen), OF_SHARES) == approximately(values(seen, OF_SHARES))


@given(data=rows(), num_bins=st.sampled_from([1, 10, 15, 3600]))
def test_errors_are_in_their_order(data: Rows, num_bins: int) -> None:
    seen, slack = sketch(*data), 1e-12
    gap = (seen.mean_confidence() - seen.accuracy()).item()
    error, ks, kuiper = (read_out.item() for read_out in (seen.ece(num_bins), seen.ks_error(), seen.kuiper_error()))
    assert abs(gap) <= ks + slack
    assert ks <= kuiper + slack
    assert kuiper <= 2 * ks + slack
    assert abs(gap) <= error + slack <= seen.ece(num_bins, "l2").item() + 2 * slack
    assert seen.ece(num_bins, "l2").item() <= seen.ece(num_bins, "max").item() + slack <= 1 + 2 * slack
    assert 0 <= seen.smooth_ece().item() <= 1
    interval = seen.ece_interval(num_bins)
    assert 0 <= interval.lower.item() <= error + slack
    assert error - slack <= interval.upper.item() <= 1
    assert seen.debiased_l1(num_bins).item() <= error + slack


@given(data=rows(), num_bins=st.sampled_from([1, 10, 15, 3600]))
def test_signed_parts_make_the_error_and_the_gap(data: Rows, num_bins: int) -> None:
    seen = sketch(*data)
    over, under = seen.overconfidence(num_bins).item(), seen.underconfidence(num_bins).item()
    assert min(over, under) >= 0
    assert over + under == pytest.approx(seen.ece(num_bins).item(), abs=1e-12)
    assert over - under == pytest.approx((seen.mean_confidence() - seen.accuracy()).item(), abs=1e-12)


@given(data=rows())
def test_what_sorts_right_from_wrong_sorts_wrong_from_right_the_other_way(data: Rows) -> None:
    c, right = data
    roc, other = sketch(c, right).auroc().item(), sketch(c, ~right).auroc().item()
    if 0 < right.sum() < len(right):
        assert roc + other == pytest.approx(1, abs=1e-12)
    else:
        assert roc != roc


@given(data=rows())
def test_risks_are_between_those_of_knowing_and_of_knowing_the_opposite(data: Rows) -> None:
    c, right = data
    seen = sketch(c, right)
    knowing, opposite = sketch(right.double(), right), sketch(1 - right.double(), right)
    for name in ("aurc", "augrc"):
        found, low, high = (getattr(state, name)().item() for state in (seen, knowing, opposite))
        assert low - 1e-12 <= found <= high + 1e-12


@given(data=rows(), power=st.sampled_from([0.5, 2.0, 3.0]))
def test_what_depends_on_order_alone_is_the_same_of_any_rising_scale(data: Rows, power: float) -> None:
    # Of confidences a tenth apart, which no rising scale here puts into one cell.
    c, right = (data[0] * 10).round() / 10, data[1]
    assert values(sketch(c**power, right), BY_ORDER) == approximately(values(sketch(c, right), BY_ORDER))
