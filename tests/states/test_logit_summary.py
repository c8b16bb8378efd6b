import math

import pytest
import torch

from logitwatch.functional.row_statistics import RowStatistics, binary_row_statistics, row_statistics
from logitwatch.functional.scores import logit_margin, logit_norm, nll
from logitwatch.functional.uncertainty import confidence, log_partition, softmax_entropy
from logitwatch.states.logit_histogram import LogitHistogram
from logitwatch.states.logit_summary import MOST_TERMS, QUANTITIES, LogitSummary
from logitwatch.states.protocol import to_device


def batch(rows: int = 40, classes: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, classes, generator=generator) + 1
    return logits, torch.randint(classes, (rows,), generator=generator)


def test_every_mean_is_that_of_the_quantity_in_float64():
    logits, targets = batch()
    means = LogitSummary.of(row_statistics(logits, targets), logits).means()
    z = logits.double()
    expected = {
        "norm": logit_norm(z).mean(),
        "log_partition": log_partition(z).mean(),
        "entropy": softmax_entropy(z).mean(),
        "confidence": confidence(z).mean(),
        "margin": logit_margin(z).mean(),
        "nll": nll(z, targets).mean(),
        "accuracy": (z.argmax(-1) == targets).double().mean(),
    }
    # float32 rows, each good to a few units in the seventh digit
    assert means == pytest.approx({name: value.item() for name, value in expected.items()}, rel=2e-6)


def test_pooled_logits_have_the_mean_and_spread_of_all_elements_far_from_zero_too():
    logits, _ = batch()
    logits = logits + 1000
    pooled = LogitSummary.of(row_statistics(logits), logits).logits
    assert pooled.count.item() == logits.numel()
    assert pooled.mean.item() == pytest.approx(logits.double().mean().item(), rel=1e-7)
    assert pooled.std.item() == pytest.approx(logits.double().std(correction=0).item(), rel=1e-5)


def test_every_row_is_in_exactly_one_count():
    logits, targets = batch(8)
    logits[0, 0], logits[1, 2], logits[2] = math.nan, math.inf, -math.inf
    targets[3], targets[4] = -100, 99
    valid = targets != -100
    bad = valid & (targets >= 6)
    rows = row_statistics(logits, targets)
    summary = LogitSummary.of(rows, logits, valid & ~bad).with_every_row(rows.max_logit, rows.min_logit, valid, bad, {})
    counts = (summary.seen, summary.nonfinite, summary.ignored, summary.bad_target, summary.counted)
    assert [int(count) for count in counts] == [8, 3, 1, 1, 3]


def test_rows_that_do_not_count_are_in_no_distribution():
    logits, targets = batch()
    logits[0, 0], logits[1], logits[2, 2] = math.nan, -math.inf, math.inf
    valid = torch.arange(40) % 4 != 3
    rows = row_statistics(logits, targets)
    summary = LogitSummary.of(rows, logits, valid)
    kept = valid & rows.finite
    parts = (summary.seen, summary.nonfinite, summary.ignored, summary.bad_target, summary.counted)
    assert [int(part) for part in parts] == [40, 3, 10, 0, 27]
    pooled = summary.logits
    assert pooled.count.item() == 27 * 6
    assert pooled.mean.item() == pytest.approx(logits[kept].double().mean().item(), rel=1e-6)
    assert pooled.std.item() == pytest.approx(logits[kept].double().std(correction=0).item(), rel=1e-6)
    for found, values in (
        (summary.logit_histogram, logits[kept]),
        (summary.margin_histogram, rows.margin[kept]),
        (summary.confidence_histogram, rows.confidence[kept]),
        (summary.entropy_histogram, rows.entropy[kept]),
    ):
        expected = LogitHistogram.of(values)
        assert torch.equal(found.cells, expected.cells)
        assert found.total.item() == expected.total.item()


def test_an_infinite_margin_is_in_no_histogram():
    logits = torch.tensor([[1.0, -math.inf], [3.0, 1.0]])
    summary = LogitSummary.of(row_statistics(logits), logits)
    assert (int(summary.margin_histogram.count), int(summary.margin_histogram.positive_infinite)) == (1, 0)
    assert (summary.means()["margin"], int(summary.confidence_histogram.count)) == (2.0, 2)


def test_pooled_logits_are_counted_past_what_float32_can_count():
    rows = row_statistics(torch.zeros(2, 3))._replace(classes=torch.tensor([2.0**24, 1.0]))
    assert LogitSummary.of(rows).logits.count.item() == 2**24 + 1


def test_extrema_are_of_finite_rows_and_of_present_classes():
    logits = torch.tensor([[5.0, -7.0, -math.inf], [math.inf, -90.0, 0.0]])
    summary = LogitSummary.of(row_statistics(logits), logits)
    assert (summary.extrema.maximum.item(), summary.extrema.minimum.item()) == (5.0, -7.0)


def test_extrema_and_counts_of_every_row_replace_those_of_the_sample():
    logits, targets = batch()
    rows = row_statistics(logits, targets)
    sample = RowStatistics(*(values[:5] for values in rows))
    everything = torch.ones(40, dtype=torch.bool)
    summary = LogitSummary.of(sample, logits[:5]).with_every_row(
        rows.max_logit, rows.min_logit, everything, ~everything, {"entropy": rows.entropy}
    )
    assert (int(summary.seen), int(summary.counted)) == (40, 5)
    assert summary.extrema.maximum.item() == logits.max().item()
    assert summary.means()["entropy"] == pytest.approx(rows.entropy.double().mean().item())
    assert summary.means()["nll"] == pytest.approx(rows.nll[:5].double().mean().item())


def test_a_quantity_known_of_every_row_is_that_of_the_rows_that_count():
    logits, targets = batch(9)
    logits[0, 0], logits[1], logits[2, 2] = math.nan, -math.inf, math.inf
    targets[3], targets[4] = -100, 99
    valid = targets != -100
    bad = valid & (targets >= 6)
    rows = row_statistics(logits, targets)
    known = torch.arange(9, dtype=torch.float64)
    known[5] = math.nan
    nothing = LogitSummary.empty()
    summary = nothing.with_every_row(rows.max_logit, rows.min_logit, valid, bad, {"entropy": known, "stranger": known})
    counts = (summary.seen, summary.nonfinite, summary.ignored, summary.bad_target)
    assert [int(count) for count in counts] == [9, 3, 1, 1]
    # Rows 0 to 2 are not finite, 3 is ignored, 4 has a bad target and 5 no entropy.
    place = QUANTITIES.index("entropy")
    assert summary.quantities.count[place].item() == 3
    assert summary.quantities.mean[place].item() == 7.0
    assert summary.quantities.variance[place].item() == pytest.approx(2 / 3, rel=1e-12)
    others = [name for name in QUANTITIES if name != "entropy"]
    assert all(math.isnan(summary.means()[name]) for name in others)


def test_extrema_of_every_row_are_of_finite_rows():
    high, low = torch.tensor([3.0, math.inf, math.nan, -2.0]), torch.tensor([1.0, -9.0, math.nan, -5.0])
    yes = torch.ones(4, dtype=torch.bool)
    summary = LogitSummary.empty().with_every_row(high, low, yes, ~yes, {})
    assert (summary.extrema.maximum.item(), summary.extrema.minimum.item()) == (3.0, -5.0)
    below = LogitSummary.empty().with_every_row(-high.abs(), -high.abs(), yes, ~yes, {})
    assert (below.extrema.maximum.item(), below.extrema.minimum.item()) == (-2.0, -3.0)


def test_ties_count_where_the_two_largest_are_equal():
    logits = torch.tensor([[2.0, 2.0, 0.0], [2.0, 1.5, 0.0], [5.0, 1.0, 0.0], [3.0, 3.0, 3.0]])
    counted = torch.tensor([True, True, True, False])
    assert int(LogitSummary.of(row_statistics(logits), logits, counted).tied) == 1


def test_without_logits_the_histograms_stay_empty_and_nothing_else_changes():
    logits, targets = batch()
    rows = row_statistics(logits, targets)
    bare, full = LogitSummary.of(rows), LogitSummary.of(rows, logits)
    assert int(bare.logit_histogram.count) == int(bare.entropy_histogram.count) == 0
    assert int(full.logit_histogram.count) == logits.numel()
    assert bare.means() == full.means()


def test_rows_without_a_target_have_no_nll_and_no_accuracy():
    logits, _ = batch()
    means = LogitSummary.of(row_statistics(logits), logits).means()
    assert math.isnan(means["nll"])
    assert math.isnan(means["accuracy"])
    assert means["entropy"] > 0


def test_one_class_has_no_margin():
    logits = torch.zeros(3, 1)
    means = LogitSummary.of(row_statistics(logits, torch.zeros(3, dtype=torch.long)), logits).means()
    assert math.isnan(means["margin"])
    assert means["accuracy"] == 1


def test_binary_rows_have_the_range_of_their_own_logit():
    z = torch.tensor([3.0, -4.0])
    summary = LogitSummary.of(binary_row_statistics(z, torch.tensor([1.0, 1.0])), z)
    assert (summary.extrema.maximum.item(), summary.extrema.minimum.item()) == (3.0, -4.0)
    assert summary.means()["norm"] == 3.5
    assert summary.means()["accuracy"] == 0.5


def test_terms_keep_their_places_and_an_absent_one_has_no_mean():
    summary = LogitSummary.empty().with_terms([torch.tensor(2.0), None])
    again = summary.merge(LogitSummary.empty().with_terms([torch.tensor(4.0), torch.tensor(1.0)]))
    assert again.terms.mean.tolist()[:2] == [3.0, 1.0]
    assert len(again.terms.mean) == MOST_TERMS
    assert math.isnan(again.terms.mean[2].item())


def test_terms_past_the_last_place_are_left_out():
    many = LogitSummary.empty().with_terms([torch.tensor(float(i)) for i in range(MOST_TERMS + 2)])
    assert many.terms.mean.tolist() == [float(i) for i in range(MOST_TERMS)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_terms_of_any_type_keep_their_value_and_their_neighbours(dtype):
    value = torch.tensor(1 / 3, dtype=torch.float64).to(dtype)
    summary = LogitSummary.empty().with_terms([value, torch.tensor(2.5)])
    assert summary.terms.mean[:2].tolist() == [value.double().item(), 2.5]


def test_terms_go_where_the_state_is_and_leave_the_graph():
    elsewhere = to_device(LogitSummary.empty(), "meta").with_terms([torch.tensor(1.0), None])
    assert elsewhere.terms.total.device.type == "meta"
    term = torch.tensor(1.0, requires_grad=True)
    assert not LogitSummary.empty().with_terms([term]).terms.total.requires_grad


def test_no_rows_give_the_empty_state():
    logits = torch.empty(0, 4)
    summary = LogitSummary.of(row_statistics(logits, torch.empty(0, dtype=torch.long)), logits)
    assert int(summary.seen) == int(summary.counted) == 0
    assert summary.extrema.maximum.item() == -math.inf


def test_logits_of_some_rows_only_fill_the_histogram_of_logits_alone():
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    summary = LogitSummary.of(row_statistics(z), z[:3], shown=torch.tensor([True, False, True]))
    assert summary.logit_histogram.count == 8
    assert summary.entropy_histogram.count == 6
    assert summary.counted == 6
