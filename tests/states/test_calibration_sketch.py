import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitwatch.states import calibration_sketch
from logitwatch.states.calibration_sketch import CELLS, CalibrationSketch
from logitwatch.states.protocol import to_device

confidences = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30)


def predictions(rows: int, classes: int = 5, *, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, classes, generator=generator)
    return logits, torch.randint(classes, (rows,), generator=generator)


def sketch(confidence: Tensor, correct: Tensor) -> CalibrationSketch:
    zero = torch.zeros_like(confidence)
    return CalibrationSketch.of_rows(confidence, correct, zero, zero)


def binned_gaps(confidence: Tensor, correct: Tensor, num_bins: int) -> list[tuple[int, float]]:
    """Rows and mean gap of each occupied bin ``[lo, hi)``, the last closed, by plain comparison."""
    c, y = confidence.double(), correct.double()
    gaps = []
    for i in range(num_bins):
        inside = (c >= i / num_bins) & ((c < (i + 1) / num_bins) | (i == num_bins - 1))
        if inside.any():
            gaps.append((int(inside.sum()), (c[inside] - y[inside]).mean().item()))
    return gaps


def norm_of(gaps: list[tuple[int, float]], norm: str) -> float:
    total = sum(n for n, _ in gaps)
    match norm:
        case "l1":
            return sum(n * abs(g) for n, g in gaps) / total
        case "l2":
            return math.sqrt(sum(n * g * g for n, g in gaps) / total)
        case _:
            return max(abs(g) for _, g in gaps)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@given(values=confidences, seed=st.integers(0, 100), num_bins=st.sampled_from([1, 2, 10, 15, 20, 100, 3600]))
def test_ece_is_exact_where_the_bins_are_made_of_whole_cells(
    norm: str, values: list[float], seed: int, num_bins: int
) -> None:
    c = torch.tensor(values)
    correct = torch.rand(len(c), generator=torch.Generator().manual_seed(seed)) < 0.5
    expected = norm_of(binned_gaps(c, correct, num_bins), norm)
    assert sketch(c, correct).ece(num_bins, norm).item() == pytest.approx(expected, abs=1e-12)  # float64 sums


@pytest.mark.parametrize("num_bins", [7, 11, 13, 14, 17, 59, 1000])
def test_elsewhere_ece_is_off_by_at_most_twice_the_share_of_rows_in_cut_cells(num_bins: int) -> None:
    c = torch.rand(2000, generator=torch.Generator().manual_seed(num_bins))
    correct = torch.rand(2000, generator=torch.Generator().manual_seed(0)) < c
    seen = sketch(c, correct)
    edges = [i / num_bins * CELLS for i in range(1, num_bins)]
    cut = {math.floor(e) for e in edges if abs(e - round(e)) > 1e-9}
    bound = 2 * seen.counts[sorted(cut)].sum().item() / 2000
    exact = norm_of(binned_gaps(c, correct, num_bins), "l1")
    assert abs(seen.ece(num_bins).item() - exact) <= bound + 1e-12
    assert seen.reliability_curve(num_bins).counts.sum() == 2000


def test_each_edge_belongs_to_the_cell_above_it_and_one_to_the_last() -> None:
    edges = torch.arange(CELLS + 1, dtype=torch.float64) / CELLS
    cells = calibration_sketch._cell(edges)
    assert torch.equal(cells, torch.arange(CELLS + 1).clamp(max=CELLS - 1))
    below = torch.nextafter(edges[1:], torch.zeros((), dtype=torch.float64))
    assert torch.equal(calibration_sketch._cell(below), torch.arange(CELLS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_has_a_cell_too(dtype: torch.dtype) -> None:
    assert 0 <= calibration_sketch._cell(torch.tensor([torch.nan], dtype=dtype)).item() < CELLS


def test_the_quick_way_for_float32_finds_the_cells_that_a_search_of_the_edges_finds() -> None:
    edges = torch.arange(CELLS + 1, dtype=torch.float64).div(CELLS).float()
    near = [edges, *(torch.nextafter(edges, torch.tensor(end)) for end in (0.0, 1.0))]
    c = torch.cat([*near, torch.rand(100_000, generator=torch.Generator().manual_seed(0))])
    assert torch.equal(calibration_sketch._cell(c), calibration_sketch._cell(c.double()))


def test_rows_seen_are_counted_ignored_nonfinite_or_without_a_target() -> None:
    logits, targets = predictions(8)
    logits[0, 0], logits[1, 1], logits[2] = torch.nan, torch.inf, -torch.inf
    targets[2], targets[3], targets[4], targets[5] = -100, -100, 5, -1
    seen = CalibrationSketch.of(logits, targets)
    # Row 2 has neither a distribution nor a target: it counts once, under the first.
    parts = (seen.count, seen.nonfinite, seen.ignored, seen.bad_target)
    assert [part.item() for part in parts] == [2, 3, 1, 2]
    kept = CalibrationSketch.of(logits[6:], targets[6:])
    for field in ("counts", "hits", "confidences", "nll_total", "brier_total"):
        torch.testing.assert_close(getattr(seen, field), getattr(kept, field), rtol=1e-14, atol=0)


def test_any_class_index_can_be_the_ignored_one() -> None:
    logits, targets = predictions(50)
    seen = CalibrationSketch.of(logits, targets, ignore_index=0)
    kept = CalibrationSketch.of(logits[targets != 0], targets[targets != 0])
    assert seen.ignored.item() == (targets == 0).sum()
    assert torch.equal(seen.hits, kept.hits)


def test_leading_axes_are_rows() -> None:
    logits, targets = predictions(24)
    flat, folded = (
        CalibrationSketch.of(logits, targets),
        CalibrationSketch.of(logits.view(2, 3, 4, 5), targets.view(2, 3, 4)),
    )
    assert torch.equal(flat.counts, folded.counts)
    soft = torch.nn.functional.one_hot(targets, 5).float()
    assert torch.equal(CalibrationSketch.of(logits.view(2, 3, 4, 5), soft.view(2, 3, 4, 5)).hits, flat.hits)
    single = CalibrationSketch.of(logits[0], targets[0])
    assert single.count.item() == 1


def test_soft_targets_are_right_where_the_largest_is_predicted() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    seen = CalibrationSketch.of(logits, torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    assert seen.accuracy().item() == 0.5
    log_p = torch.log_softmax(logits.double(), -1)[0]
    expected = -((0.9 + 0.2) * log_p[0] + (0.1 + 0.8) * log_p[1]) / 2
    assert seen.nll().item() == pytest.approx(expected.item(), rel=1e-6)  # rows are float32


def test_one_hot_targets_give_the_numbers_of_their_indices() -> None:
    logits, targets = predictions(40)
    hard = CalibrationSketch.of(logits, targets)
    soft = CalibrationSketch.of(logits, torch.nn.functional.one_hot(targets, 5).float())
    assert torch.equal(hard.hits, soft.hits)
    torch.testing.assert_close((soft.nll(), soft.brier_score()), (hard.nll(), hard.brier_score()), rtol=1e-6, atol=0)


def test_averages_are_those_of_the_rows() -> None:
    logits, targets = predictions(300)
    p = logits.double().softmax(-1)
    seen = CalibrationSketch.of(logits, targets)
    assert seen.count.item() == 300
    assert seen.accuracy().item() == (p.argmax(-1) == targets).double().mean().item()
    # Rows are float32.
    assert seen.mean_confidence().item() == pytest.approx(p.amax(-1).mean().item(), rel=1e-6)
    brier = (p - torch.nn.functional.one_hot(targets, 5)).square().sum(-1).mean().item()
    assert seen.brier_score().item() == pytest.approx(brier, rel=1e-6)
    assert seen.nll().item() == pytest.approx(-p.log()[range(300), targets].mean().item(), rel=1e-6)


def test_the_nll_of_an_absent_class_is_infinite_and_spoils_nothing_else() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, 0.0, 0.0]])
    seen = CalibrationSketch.of(logits, torch.tensor([2, 0]))
    assert seen.nll().item() == math.inf
    # 1/4 + 1/4 + 1 for the absent target, 4/9 + 1/9 + 1/9 for the other.
    assert seen.brier_score().item() == pytest.approx((1.5 + 2 / 3) / 2, rel=1e-6)
    assert not seen.ece().isnan()


def test_every_read_out_of_nothing_is_nan() -> None:
    empty = CalibrationSketch.empty()
    eces = [empty.ece(norm=norm) for norm in ("l1", "l2", "max")]
    rest = [empty.null_ece(), empty.brier_score(), empty.nll(), empty.accuracy(), empty.mean_confidence()]
    assert all(value.isnan() for value in (*eces, *rest))
    curve = empty.reliability_curve()
    assert curve.counts.tolist() == [0] * 15
    assert all(line.isnan().all() for line in curve[1:])


@pytest.mark.parametrize("num_bins", [15, 7])
def test_read_outs_are_where_the_state_is_and_wait_for_no_device(num_bins: int) -> None:
    # A tensor on the meta device has no values, so to look at one raises where an accelerator would wait.
    seen = to_device(CalibrationSketch.of(*predictions(10)), "meta")
    values = [seen.ece(num_bins, norm) for norm in ("l1", "l2", "max")]
    values += [seen.null_ece(num_bins), seen.brier_score(), seen.nll(), seen.accuracy(), seen.mean_confidence()]
    values += [*seen.reliability_curve(num_bins)]
    assert {value.device.type for value in values} == {"meta"}


@pytest.mark.parametrize("num_bins", [15, 7])
def test_the_default_device_of_the_process_is_of_no_account(num_bins: int) -> None:
    logits, targets = predictions(50)
    seen = CalibrationSketch.of(logits.double(), targets)
    expected = (seen.ece(num_bins), seen.null_ece(num_bins), *seen.reliability_curve(num_bins))
    calibration_sketch._inner_edges.cache_clear()
    with torch.device("meta"):
        seen = CalibrationSketch.of(logits.double(), targets)
        found = (seen.ece(num_bins), seen.null_ece(num_bins), *seen.reliability_curve(num_bins))
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_read_outs_are_float64() -> None:
    seen = CalibrationSketch.of(*predictions(10))
    values = [seen.ece(norm=norm) for norm in ("l1", "l2", "max")]
    values += [seen.null_ece(), seen.brier_score(), seen.nll(), seen.accuracy(), seen.mean_confidence()]
    values += [*seen.reliability_curve()[1:]]
    assert {value.dtype for value in values} == {torch.float64}


def test_the_curve_has_the_wilson_interval() -> None:
    c = torch.full((10,), 0.75)
    curve = sketch(c, torch.arange(10) < 8).reliability_curve(2)
    assert curve.counts.tolist() == [0, 10]
    assert (curve.confidence[1].item(), curve.accuracy[1].item()) == (0.75, 0.8)
    # Wilson's interval of 8 in 10 at 95 %, as statsmodels and R's binom print it.
    assert curve.lower[1].item() == pytest.approx(0.4901625, abs=1e-7)
    assert curve.upper[1].item() == pytest.approx(0.9433178, abs=1e-7)


@pytest.mark.parametrize("right", [True, False])
def test_the_interval_of_a_bin_all_right_or_all_wrong_ends_at_its_accuracy(right: bool) -> None:
    for n in range(1, 40):
        curve = sketch(torch.full((n,), 0.5), torch.full((n,), right)).reliability_curve(1)
        assert 0 <= curve.lower[0] <= curve.accuracy[0] <= curve.upper[0] <= 1


def test_counts_stay_exact_where_float32_and_int32_stop_counting() -> None:
    one = sketch(torch.tensor([0.9]), torch.tensor([False]))
    many = dataclasses.replace(one, counts=one.counts * 2**40, confidences=one.confidences * 2**40)
    merged = many.merge(one).merge(one)
    assert merged.count.item() == 2**40 + 2
    assert merged.ece().item() == pytest.approx(0.9, rel=1e-7)  # the confidence is a float32
    assert merged.reliability_curve().counts[13].item() == 2**40 + 2
    # The null is the half-normal mean there, sqrt(2 p q / (pi n)).
    assert merged.null_ece().item() == pytest.approx(math.sqrt(2 * 0.09 / math.pi / 2**40), rel=1e-4)


def exact_null(p: list[float]) -> float:
    """Expected absolute sum of ``p_i - Y_i`` of one bin over all outcomes, per row."""
    total = 0.0
    for outcome in itertools.product((0, 1), repeat=len(p)):
        weight = math.prod(q if y else 1 - q for q, y in zip(p, outcome, strict=True))
        total += weight * abs(sum(p) - sum(outcome))
    return total / len(p)


@pytest.mark.parametrize("n", [1, 2, 5, 10])
@pytest.mark.parametrize("p", [0.05, 0.35, 0.5, 0.8, 0.99])
def test_the_null_of_equal_confidences_is_exact(n: int, p: float) -> None:
    c = torch.full((n,), p, dtype=torch.float64)
    null = sketch(c, torch.zeros(n, dtype=torch.bool)).null_ece().item()
    assert null == pytest.approx(exact_null([p] * n), rel=1e-10)


@pytest.mark.parametrize(
    "p", [[0.68, 0.72], [0.61, 0.63, 0.66], [0.94, 0.96, 0.98, 0.995, 0.999], [0.34, 0.35, 0.36, 0.39]]
)
def test_the_null_of_confidences_that_differ_within_a_bin_is_close(p: list[float]) -> None:
    c = torch.tensor(p, dtype=torch.float64)
    null = sketch(c, torch.zeros(len(p), dtype=torch.bool)).null_ece(15 if min(p) > 0.5 else 10).item()
    # The scaling is right to second order in the differences, which are below a fifteenth.
    assert null == pytest.approx(exact_null(p), rel=0.05)


def null_by_convolution(p: list[float]) -> float:
    """As `exact_null`, for many rows: the distribution of the number of right ones is built up row by row."""
    chances = torch.ones(1, dtype=torch.float64)
    for q in p:
        chances = torch.cat((chances * (1 - q), chances.new_zeros(1))) + torch.cat((chances.new_zeros(1), chances * q))
    return (torch.arange(len(chances), dtype=torch.float64) - sum(p)).abs().dot(chances).item() / len(p)


@pytest.mark.parametrize("p", [[0.1, 0.9] * 50, [0.6, 0.9] * 100, [0.5, 1.0] * 30])
def test_the_null_of_many_confidences_far_apart_in_a_bin_has_their_own_variance(p: list[float]) -> None:
    c = torch.tensor(p, dtype=torch.float64)
    null = sketch(c, torch.zeros(len(p), dtype=torch.bool)).null_ece(1).item()
    # The number right is near normal, so only its variance matters; that of equal confidences would be up to 1.7 off.
    assert null == pytest.approx(null_by_convolution(p), rel=0.01)


@pytest.mark.parametrize(("rows", "repeats"), [(15, 1500), (75, 1000), (1000, 500), (10_000, 60)])
def test_the_null_is_what_calibrated_models_show_on_average(rows: int, repeats: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    c = torch.rand(rows, generator=generator) ** 0.4
    eces = torch.stack([sketch(c, torch.rand(rows, generator=generator) < c).ece() for _ in range(repeats)])
    standard_error = (eces.std() / math.sqrt(repeats)).item()
    null = sketch(c, torch.zeros(rows, dtype=torch.bool)).null_ece().item()
    # Four standard errors of the simulation, and a hundredth for the scaling.
    assert abs(null - eces.mean().item()) <= 4 * standard_error + 0.01 * null


def test_the_null_is_zero_where_nothing_can_go_wrong() -> None:
    assert sketch(torch.ones(9), torch.ones(9, dtype=torch.bool)).null_ece().item() == 0.0
    assert sketch(torch.zeros(9), torch.zeros(9, dtype=torch.bool)).null_ece().item() == 0.0


def test_the_null_joins_its_normal_limit_without_a_step() -> None:
    n = torch.tensor([3.99e6, 4.01e6], dtype=torch.float64)
    p = torch.full_like(n, 0.5)
    exact, limit = calibration_sketch._mean_absolute_deviation(n, p, n / 4) / n.sqrt()
    assert exact.item() == pytest.approx(limit.item(), rel=1e-6)


@pytest.mark.parametrize("shape", [(4, 1), (1,), ()])
def test_fewer_than_two_classes_are_refused_with_a_remedy(shape: tuple[int, ...]) -> None:
    remedy = r"for one logit z per row pass torch.stack\(\(torch.zeros_like\(z\), z\), dim=-1\)$"
    with pytest.raises(ValueError, match=r"two classes or more, got .*; " + remedy):
        CalibrationSketch.of(torch.zeros(shape), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize(
    "targets",
    [torch.zeros(3, dtype=torch.int64), torch.zeros(4), torch.zeros(4, 5, dtype=torch.int64), torch.zeros(4, 3)],
)
def test_targets_of_another_shape_are_refused(targets: Tensor) -> None:
    with pytest.raises(ValueError, match=r"targets must be integer of shape \(4,\) or probabilities of shape \(4, 5\)"):
        CalibrationSketch.of(torch.zeros(4, 5), targets)
    with pytest.raises(ValueError, match=r"integer of shape \(2, 3\) or probabilities of shape \(2, 3, 5\)"):
        CalibrationSketch.of(torch.zeros(2, 3, 5), targets)


@pytest.mark.parametrize("num_bins", [0, -1, CELLS + 1])
def test_bins_finer_than_the_cells_or_none_are_refused(num_bins: int) -> None:
    with pytest.raises(ValueError, match=rf"num_bins must be in \[1, 3600\], got {num_bins}"):
        CalibrationSketch.empty().ece(num_bins)


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match='"l1", "l2" or "max"'):
        CalibrationSketch.empty().ece(norm="L1")  # type: ignore[arg-type]
