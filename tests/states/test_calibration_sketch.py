import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import assert_same_state
from torch import Tensor

from logitwatch.states import confidence_cells, smoothing_grids
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.confidence_cells import CELLS
from logitwatch.states.protocol import Packed, pack, to_device, unpack

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
    bound = 2 * seen.cells.counts.sum(0)[sorted(cut)].sum().item() / 2000
    exact = norm_of(binned_gaps(c, correct, num_bins), "l1")
    assert abs(seen.ece(num_bins).item() - exact) <= bound + 1e-12
    assert seen.reliability_curve(num_bins).counts.sum() == 2000


def test_rows_seen_are_counted_ignored_nonfinite_or_without_a_target() -> None:
    logits, targets = predictions(8)
    logits[0, 0], logits[1, 1], logits[2] = torch.nan, torch.inf, -torch.inf
    targets[2], targets[3], targets[4], targets[5] = -100, -100, 5, -1
    seen = CalibrationSketch.of(logits, targets)
    # Row 2 has neither a distribution nor a target: it counts once, under the first.
    parts = (seen.count, seen.nonfinite, seen.ignored, seen.bad_target)
    assert [part.item() for part in parts] == [2, 3, 1, 2]
    kept = CalibrationSketch.of(logits[6:], targets[6:])
    for part in ("cells", "ranks", "grids"):
        assert_same_state(getattr(seen, part), getattr(kept, part))
    for field in ("nll_total", "brier_total", "spiegelhalter_total"):
        torch.testing.assert_close(getattr(seen, field), getattr(kept, field), rtol=1e-14, atol=0)


def test_any_class_index_can_be_the_ignored_one() -> None:
    logits, targets = predictions(50)
    seen = CalibrationSketch.of(logits, targets, ignore_index=0)
    kept = CalibrationSketch.of(logits[targets != 0], targets[targets != 0])
    assert seen.ignored.item() == (targets == 0).sum()
    assert torch.equal(seen.cells.counts, kept.cells.counts)


def test_leading_axes_are_rows() -> None:
    logits, targets = predictions(24)
    flat, folded = (
        CalibrationSketch.of(logits, targets),
        CalibrationSketch.of(logits.view(2, 3, 4, 5), targets.view(2, 3, 4)),
    )
    assert torch.equal(flat.cells.counts, folded.cells.counts)
    soft = torch.nn.functional.one_hot(targets, 5).float()
    assert torch.equal(
        CalibrationSketch.of(logits.view(2, 3, 4, 5), soft.view(2, 3, 4, 5)).cells.counts, flat.cells.counts
    )
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
    assert torch.equal(hard.cells.counts, soft.cells.counts)
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


def read_outs(seen: CalibrationSketch, num_bins: int = 15) -> dict[str, Tensor]:
    """Every number a sketch can be asked for."""
    by_bins = ("overconfidence", "underconfidence", "null_ece", "debiased_ece", "debiased_l1", "adaptive_ece")
    plain = ("accuracy", "mean_confidence", "nll", "brier_score", "smooth_ece", "ks_error", "kuiper_error")
    plain += ("spiegelhalter_z", "aurc", "augrc", "auroc")
    found = {f"ece {norm}": seen.ece(num_bins, norm) for norm in ("l1", "l2", "max")}
    found |= {name: getattr(seen, name)(num_bins) for name in by_bins}
    found |= {name: getattr(seen, name)() for name in plain}
    for name in ("adaptive_ece", "ks_error", "kuiper_error", "aurc", "augrc", "auroc"):
        found[f"certified {name}"] = seen.certified_error(name, num_bins)
    for part in (seen.brier_decomposition(num_bins), seen.ece_interval(num_bins), seen.reliability_curve(num_bins)):
        found |= part._asdict()
    curve, smooth = seen.risk_coverage_curve(), seen.smooth_reliability_curve()
    found |= {"coverage": curve.coverage, "risk": curve.risk}
    return found | {"smooth accuracy": smooth.accuracy, "density": smooth.density, "bandwidth": smooth.bandwidth}


def test_every_read_out_has_its_place_in_the_tests() -> None:
    names = {name for name, value in vars(CalibrationSketch).items() if callable(value) and not name.startswith("_")}
    several = {"ece", "certified_error", "brier_decomposition", "ece_interval", "reliability_curve"}
    tested = {name for name in read_outs(CalibrationSketch.empty()) if name in names}
    assert names - tested == several | {"risk_coverage_curve", "smooth_reliability_curve", "merge"}


def test_every_read_out_of_nothing_is_nan() -> None:
    found = read_outs(CalibrationSketch.empty())
    assert found.pop("counts").tolist() == [0] * 15
    assert all(value.isnan().all() for value in found.values()), found


@pytest.mark.parametrize("num_bins", [15, 7])
def test_read_outs_are_where_the_state_is_and_wait_for_no_device(num_bins: int) -> None:
    # A tensor on the meta device has no values, so to look at one raises where an accelerator would wait.
    seen = to_device(CalibrationSketch.of(*predictions(10)), "meta")
    assert {value.device.type for value in read_outs(seen, num_bins).values()} == {"meta"}
    assert seen.risk_coverage_curve().threshold.device.type == "meta"
    assert seen.smooth_reliability_curve().confidence.device.type == "meta"


@pytest.mark.parametrize("num_bins", [15, 7])
def test_the_default_device_of_the_process_is_of_no_account(num_bins: int) -> None:
    logits, targets = predictions(50)
    expected = read_outs(CalibrationSketch.of(logits.double(), targets), num_bins)
    confidence_cells._edges.cache_clear()
    smoothing_grids._layout.cache_clear()
    with torch.device("meta"):
        found = read_outs(CalibrationSketch.of(logits.double(), targets), num_bins)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_read_outs_are_float64_and_finite() -> None:
    found = read_outs(CalibrationSketch.of(*predictions(500)), 4)
    assert found.pop("counts").dtype == torch.int64
    assert {value.dtype for value in found.values()} == {torch.float64}
    ends = [value.reshape(-1)[-1] for value in found.values()]  # the most confident, or the whole
    assert all(value.isfinite() for value in ends)


def test_a_batch_of_ignored_rows_changes_nothing_but_their_number() -> None:
    logits, targets = predictions(40)
    nothing = CalibrationSketch.of(logits, torch.full_like(targets, -100))
    assert nothing.ignored.item() == 40
    seen = CalibrationSketch.of(logits, targets)
    left_out = dataclasses.replace(seen.merge(nothing), ignored=seen.ignored)
    assert_same_state(left_out, seen, tolerance=0)


def test_the_state_takes_less_than_a_mebibyte() -> None:
    packed = pack(CalibrationSketch.of(*predictions(1000)))
    assert packed.sums.nbytes + packed.maxima.nbytes < 2**20


def test_spiegelhalter_counts_the_standard_errors_of_the_brier_score() -> None:
    generator = torch.Generator().manual_seed(0)
    c = torch.rand(400, generator=generator, dtype=torch.float64)
    correct = torch.rand(400, generator=generator) < c - 0.1
    y = correct.double()
    wanted = ((y - c) * (1 - 2 * c)).sum() / ((1 - 2 * c).square() * c * (1 - c)).sum().sqrt()
    assert sketch(c, correct).spiegelhalter_z().item() == pytest.approx(wanted.item(), rel=1e-11)  # float64 sums


def test_the_top_label_brier_score_of_two_classes_is_half_the_whole_and_of_more_a_smaller_part() -> None:
    for classes in (2, 3, 5):
        logits, targets = predictions(200, classes)
        seen = CalibrationSketch.of(logits.double(), targets)
        least = seen.brier_decomposition().brier.item() * classes / (classes - 1)
        assert seen.brier_score().item() >= least - 1e-12
        assert (seen.brier_score().item() == pytest.approx(least, rel=1e-12)) == (classes == 2)


def test_an_unknown_read_out_is_not_certified() -> None:
    with pytest.raises(ValueError, match=r"read_out must be adaptive_ece, .*, auroc, got 'ece'"):
        CalibrationSketch.empty().certified_error("ece")  # type: ignore[arg-type]


def test_counts_stay_exact_where_float32_and_int32_stop_counting() -> None:
    one = sketch(torch.tensor([0.9]), torch.tensor([False]))
    many = unpack(one, Packed(pack(one).sums * 2**40, pack(one).maxima))
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
