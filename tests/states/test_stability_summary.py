import pytest
import torch

from logitwatch.functional.row_statistics import row_statistics
from logitwatch.states.stability_summary import StabilitySummary, near_ties

NAN = float("nan")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("top", [1.0, 1.5, 3.0, 40.0, 0.75, -40.0, 2.0**-3])
def test_a_near_tie_is_a_neighbour_in_the_type(dtype, top):
    high = torch.tensor(top, dtype=dtype)
    below = torch.nextafter(high, torch.tensor(-torch.inf, dtype=dtype))
    further = torch.nextafter(below, torch.tensor(-torch.inf, dtype=dtype))
    further = torch.nextafter(torch.nextafter(further, further - 100), further - 100)
    for second, expected in ((high, True), (below, True), (further, False)):
        rows = row_statistics(torch.stack((second, high)).unsqueeze(0))
        assert near_ties(rows, dtype).item() is expected


def test_a_row_that_is_not_finite_is_no_near_tie():
    z = torch.tensor([[NAN, 0.0], [torch.inf, torch.inf], [-torch.inf, -torch.inf]])
    assert near_ties(row_statistics(z), torch.float32).tolist() == [False] * 3


def summary(z, y, counted=None, **options):
    counted = torch.ones(len(z), dtype=torch.bool) if counted is None else counted
    return StabilitySummary.of(row_statistics(z, y), y, counted, num_classes=z.shape[1], dtype=z.dtype, **options)


Z = torch.tensor([[300.0, 0.0, 1.0], [NAN, 0.0, 0.0], [-500.0, 2.0, 2.0], [0.0, 1.0, 9.0]], dtype=torch.float16)
Y = torch.tensor([0, 1, 2, 1])


def test_rows_range_ties_and_classes_of_a_look():
    seen = summary(Z, Y, step=12)
    assert (int(seen.seen), int(seen.nonfinite), int(seen.counted), int(seen.near_tied)) == (4, 1, 3, 1)
    assert (seen.absmax(), seen.largest_finite(), seen.spacing.item()) == (500.0, 65504.0, 2.0**-10)
    assert seen.first_nonfinite() == 12
    assert seen.classes.predicted[:3].tolist() == [1, 1, 1]
    assert seen.classes.labelled[:3].tolist() == [1, 1, 1]


def test_the_first_step_that_was_not_finite_is_the_smallest():
    parts = [summary(Z, Y, step=9), summary(Z, Y, step=7), summary(Z[:1], Y[:1], step=1), StabilitySummary.empty()]
    merged = StabilitySummary.empty()
    for part in parts:
        merged = merged.merge(part)
    assert merged.first_nonfinite() == 7
    assert summary(Z[:1], Y[:1], step=1).first_nonfinite() is None


def test_of_two_types_the_one_that_holds_less_counts():
    both = summary(Z, Y).merge(summary(Z.float(), Y)).merge(summary(Z.bfloat16(), Y))
    assert (both.largest_finite(), both.spacing.item()) == (65504.0, 2.0**-7)


def test_rows_outside_the_sample_are_in_the_range_and_the_counts():
    high, low = torch.tensor([1.0, 7.0, torch.inf]), torch.tensor([0.0, -8.0, 0.0])
    seen = StabilitySummary.of(
        row_statistics(Z[:1], Y[:1]),
        Y[:1],
        torch.tensor([True]),
        num_classes=3,
        dtype=Z.dtype,
        extremes=(high, low),
    )
    assert (int(seen.seen), int(seen.nonfinite), seen.absmax()) == (3, 1, 8.0)
    assert [look.absmax for look in seen.looks.looks()] == [8.0]


def test_probabilities_for_targets_name_no_class():
    seen = StabilitySummary.of(
        row_statistics(Z[:1], Z[:1].softmax(-1)),
        Z[:1].softmax(-1),
        torch.tensor([True]),
        num_classes=3,
        dtype=Z.dtype,
    )
    assert seen.classes.labelled.sum() == 0
    assert int(seen.counted) == 1


def test_integer_logits_have_no_spacing():
    assert int(summary(torch.tensor([[3, 3], [1, 0]]), Y[:2]).near_tied) == 0
