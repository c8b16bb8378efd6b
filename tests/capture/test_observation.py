import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import nan

from logitwatch.capture.observation import Observation

inf = math.inf


def batch(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive(z, y=None):
    """Quantities of rows ``[n, classes]`` in float64, written for reading."""
    z = z.double()
    log_p = z.log_softmax(-1)
    p = log_p.exp()
    top = z.topk(min(2, z.shape[-1]), -1).values
    values = {
        "max_logit": z.amax(-1),
        "log_partition": z.logsumexp(-1),
        "entropy": -torch.where(p == 0, 0.0, p * log_p).sum(-1),
        "confidence": p.amax(-1),
        "margin": top[:, 0] - top[:, 1] if z.shape[-1] > 1 else torch.full((len(z),), inf, dtype=torch.float64),
    }
    if y is None:
        return values
    if y.ndim == 2:
        values["nll"] = -torch.where(y == 0, 0.0, y.double() * log_p).sum(-1)
        values["correct"] = log_p.argmax(-1) == y.argmax(-1)
    else:
        values["nll"] = -log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1)
        values["correct"] = log_p.argmax(-1) == y
    return values


def agrees(observation, expected, *, tolerance=1e-5):
    # float32 rounds at 6e-8; a sum over the classes and a logarithm lose a digit.
    for name, value in expected.items():
        found = getattr(observation, name)
        assert found.dtype in (torch.bool, torch.float32, torch.float64)
        torch.testing.assert_close(
            found.double(), value.double(), rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


LAYOUTS = {
    "one row": ((5,), 0),
    "rows": ((7, 5), 1),
    "image": ((3, 5, 2, 4), 1),
    "volume": ((2, 5, 2, 3, 2), 1),
    "sequence, classes last": ((3, 4, 5), -1),
    "sequence, classes first": ((3, 5, 4), 1),
    "no rows": ((0, 5), 1),
    "no pictures": ((0, 5, 2, 4), 1),
    "no pixels": ((3, 5, 0, 4), 1),
}


@pytest.mark.parametrize(("shape", "class_dim"), LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("kind", ["indices", "probabilities", "none"])
def test_each_layout_becomes_the_same_rows(shape, class_dim, kind):
    z = batch(*shape)
    leading = torch.Size(np.delete(shape, class_dim).tolist())
    rows = z.movedim(class_dim, -1).reshape(-1, 5)
    y = flat = None
    if kind == "indices":
        y = torch.randint(5, leading, generator=torch.Generator().manual_seed(1))
        flat = y.reshape(-1)
    elif kind == "probabilities":
        y = batch(*shape, seed=1).softmax(class_dim)
        flat = y.movedim(class_dim, -1).reshape(-1, 5)
    seen = Observation.of(z, y, class_dim=class_dim)
    assert (seen.num_rows, seen.num_classes, seen.leading_shape) == (len(rows), 5, tuple(leading))
    assert torch.equal(seen.logits, rows)
    assert torch.equal(seen.valid, torch.ones(len(rows), dtype=torch.bool))
    assert seen.targets is None if flat is None else torch.equal(seen.targets, flat)
    agrees(seen, naive(rows, flat))
    assert torch.equal(seen.extremes[0], rows.amax(-1))
    assert torch.equal(seen.extremes[1], rows.amin(-1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: batch(5, 7).t(),
        lambda: batch(7, 10)[:, ::2],
        lambda: batch(14, 5)[::2],
        lambda: batch(5).expand(7, 5),
    ],
    ids=["transposed", "every other class", "every other row", "expanded"],
)
def test_strides_do_not_matter(make):
    z = make()
    y = torch.arange(7) % 5
    agrees(Observation.of(z, y), naive(z.contiguous(), y))


def test_a_permuted_image_is_seen_as_the_criterion_sees_it():
    z = batch(2, 3, 4, 5).permute(0, 3, 1, 2)
    y = torch.randint(5, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    seen = Observation.of(z, y, class_dim=1)
    loss = torch.nn.functional.cross_entropy(z, y, reduction="none").reshape(-1)
    torch.testing.assert_close(seen.nll, loss)


def test_classes_last_are_not_copied():
    z = batch(3, 4, 5)
    assert Observation.of(z).logits.data_ptr() == z.data_ptr()


def test_many_pieces_give_what_one_piece_gives(monkeypatch):
    z, y = batch(6, 5, 7), torch.arange(42).reshape(6, 7) % 5
    whole = Observation.of(z, y, class_dim=1)
    monkeypatch.setattr("logitwatch.capture.observation.PIECE_ELEMENTS", 70)
    pieces = Observation.of(z, y, class_dim=1)
    for one, other in zip(whole.statistics, pieces.statistics, strict=True):
        assert torch.equal(one, other)
    z[0, 0] = -inf
    assert torch.equal(Observation.of(z, class_dim=1).extremes[1][:7], z[0, 1:].amin(0))


@pytest.mark.parametrize("ignore_index", [-100, -1, 2, 255])
def test_ignored_rows_are_not_valid_and_not_bad(ignore_index):
    y = torch.tensor([0, ignore_index, 4, ignore_index])
    seen = Observation.of(batch(4, 5), y, ignore_index=ignore_index)
    assert seen.valid.tolist() == [True, False, True, False]
    assert not seen.bad_target.any()


def test_a_target_outside_the_classes_is_bad_and_still_valid():
    seen = Observation.of(batch(4, 5), torch.tensor([0, 5, -1, -100]))
    assert seen.bad_target.tolist() == [False, True, True, False]
    assert seen.valid.tolist() == [True, True, True, False]
    assert seen.nll.isnan().tolist() == [False, True, True, True]
    assert seen.correct[1:].tolist() == [False, False, False]


def test_a_mask_and_an_ignored_target_both_take_a_row_out():
    mask = torch.tensor([[True, False], [True, True]])
    seen = Observation.of(batch(2, 2, 5), torch.tensor([[0, 1], [-100, 4]]), mask=mask)
    assert seen.valid.tolist() == [True, False, False, True]
    assert Observation.of(batch(2, 2, 5), mask=mask).valid.tolist() == [True, False, True, True]


@pytest.mark.parametrize("shape", [(6,), (6, 3), (2, 3, 4), (0, 3)])
def test_yes_or_no_logits_are_one_row_an_element(shape):
    z = batch(*shape)
    y = (batch(*shape, seed=1) > 0).float()
    seen = Observation.of(z, y, binary=True, ignore_index=None)
    assert (seen.num_rows, seen.num_classes, seen.binary) == (z.numel(), 2, True)
    flat, labels = z.reshape(-1), y.reshape(-1)
    pairs = torch.stack((torch.zeros_like(flat), flat), -1)
    expected = naive(pairs, labels.long()) | {"max_logit": flat.double()}
    agrees(seen, expected)
    assert torch.equal(seen.extremes[0], flat)
    assert torch.equal(seen.extremes[1], flat)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none").reshape(-1)
    torch.testing.assert_close(seen.nll, loss, rtol=1e-5, atol=1e-6)


def test_one_class_is_certain_and_has_no_margin():
    seen = Observation.of(batch(4, 1), torch.zeros(4, dtype=torch.long))
    assert seen.confidence.tolist() == [1.0] * 4
    assert seen.entropy.tolist() == [0.0] * 4
    assert seen.nll.tolist() == [0.0] * 4
    assert seen.margin.tolist() == [inf] * 4
    assert seen.correct.all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bfloat16, torch.float16, torch.float64])
def test_every_real_type_gives_the_numbers_of_its_float32(dtype):
    z = batch(7, 5).abs().to(dtype)
    y = torch.arange(7) % 5
    seen, lifted = Observation.of(z, y), Observation.of(z.to(torch.promote_types(dtype, torch.float32)), y)
    for one, other in zip((*seen.statistics, *seen.extremes), (*lifted.statistics, *lifted.extremes), strict=True):
        assert torch.equal(one, other)
    agrees(seen, naive(z.double(), y))


EXTREME_ROWS = {
    "NaN": ([1.0, nan, 2.0], nan, None),
    "NaN beside inf": ([inf, nan, 2.0], nan, None),
    "inf": ([1.0, inf, 2.0], inf, None),
    "both infinities": ([-inf, inf, 2.0], inf, None),
    "absent class": ([1.0, -inf, 2.0], 2.0, 1.0),
    "one class left": ([-inf, -inf, 2.0], 2.0, 2.0),
    "nothing left": ([-inf, -inf, -inf], -inf, None),
    "largest float": ([3.4e38, -3.4e38, 0.0], 3.4e38, -3.4e38),
}


@pytest.mark.parametrize(("row", "high", "low"), EXTREME_ROWS.values(), ids=EXTREME_ROWS.keys())
@pytest.mark.parametrize("layout", ["last", "image"])
def test_extremes_of_odd_rows_are_exact_and_touch_no_other_row(row, high, low, layout):
    z = torch.tensor([[0.5, -0.5, 0.0], row, [4.0, 3.0, 2.0]])
    seen = Observation.of(z) if layout == "last" else Observation.of(z.t().reshape(1, 3, 3, 1), class_dim=1)
    highs, lows = seen.extremes
    torch.testing.assert_close(highs, torch.tensor([0.5, high, 4.0]), rtol=0, atol=0, equal_nan=True)
    assert lows[[0, 2]].tolist() == [-0.5, 2.0]
    if low is not None:
        assert lows[1] == torch.tensor(low)
    assert seen.statistics.finite.tolist() == [True, low is not None, True]
    assert seen.entropy[[0, 2]].isfinite().all()


values = st.one_of(st.floats(-60, 60, width=32), st.sampled_from((nan, inf, -inf)))


@given(npst.arrays("float32", st.tuples(st.integers(0, 5), st.integers(1, 4)), elements=values))
def test_extremes_are_those_of_the_statistics(array):
    seen = Observation.of(torch.from_numpy(array))
    high, low = seen.extremes
    torch.testing.assert_close(high, seen.statistics.max_logit, rtol=0, atol=0, equal_nan=True)
    finite = seen.statistics.finite
    assert torch.equal(low[finite], seen.statistics.min_logit[finite])


def test_a_sample_has_no_row_twice_and_belongs_together():
    z, y = batch(50, 5), torch.arange(50) % 5
    seen = Observation.of(z, y, known={"entropy": torch.arange(50.0)}, stage="val", source="s", step=3)
    sample = seen.sample(20)
    index = sample.known["entropy"].long()
    assert sample.num_rows == 20 == len(set(index.tolist()))
    assert torch.equal(sample.logits, z[index])
    assert torch.equal(sample.targets, y[index])
    assert (sample.stage, sample.source, sample.step) == ("val", "s", 3)


def test_a_sample_of_an_image_takes_whole_pixels():
    z, y = batch(2, 5, 3, 4), torch.randint(5, (2, 3, 4), generator=torch.Generator().manual_seed(1))
    seen = Observation.of(z, y, class_dim=1, known={"entropy": torch.arange(24.0)})
    sample = seen.sample(10)
    index = sample.known["entropy"].long()
    assert torch.equal(sample.logits, z.movedim(1, -1).reshape(-1, 5)[index])
    assert torch.equal(sample.targets, y.reshape(-1)[index])


def test_spread_rows_are_evenly_spaced_and_not_drawn():
    z, y = batch(50, 5), torch.arange(50) % 5
    few = Observation.of(z, y).spread(4)
    assert torch.equal(few.logits, z[[0, 12, 25, 37]])
    assert torch.equal(few.targets, y[[0, 12, 25, 37]])
    seen = Observation.of(z, y)
    assert seen.spread(50) is seen
    pixels = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        Observation.of(pixels, class_dim=1).spread(2).logits, pixels.movedim(1, -1).reshape(-1, 5)[[0, 12]]
    )


def test_a_sample_takes_valid_rows_first():
    y = torch.full((50,), -100)
    y[[3, 17, 30]] = 1
    sample = Observation.of(batch(50, 5), y).sample(5)
    assert sample.valid.sum() == 3
    assert Observation.of(batch(50, 5), y).sample(2).valid.all()


def test_a_sample_is_the_same_when_asked_again_and_everything_when_it_is_large():
    seen = Observation.of(batch(50, 5))
    assert seen.sample(7) is seen.sample(7)
    assert seen.sample(50) is seen
    assert seen.sample(10**9) is seen


def test_every_row_is_as_likely_as_another():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(20)
    for _ in range(600):
        seen = Observation.of(torch.zeros(20, 2), known={"entropy": torch.arange(20)}, generator=generator)
        counts[seen.sample(5).known["entropy"]] += 1
    # Each count is binomial(600, 1/4), of standard deviation 10.6: five of them.
    assert ((counts - 150).abs() < 53).all()


def test_sampling_draws_nothing_from_the_run():
    before = torch.get_rng_state()
    seen = Observation.of(batch(50, 5), generator=torch.Generator().manual_seed(1))
    assert seen.sample(7).num_rows == 7
    assert Observation.of(batch(50, 5)).sample(7).num_rows == 7
    assert torch.equal(torch.get_rng_state(), before)


def test_what_the_loss_knows_is_not_computed_again():
    known = {name: torch.full((4,), 7.0) for name in ("max_logit", "log_partition", "entropy", "nll")}
    seen = Observation.of(batch(4, 5), torch.zeros(4, dtype=torch.long), known=known)
    for name in known:
        assert getattr(seen, name).tolist() == [7.0] * 4, name
    assert seen.confidence.max() <= 1


def test_no_graph_is_kept_and_the_logits_are_left_alone():
    z = batch(6, 5).requires_grad_()
    logits = z * 1
    before, version = logits.detach().clone(), logits._version
    soft = batch(6, 5, seed=1).softmax(-1).requires_grad_()
    seen = Observation.of(logits, soft)
    kept = [seen.logits, seen.targets, *seen.extremes, *seen.statistics, seen.sample(3).logits, seen.sample(3).nll]
    assert all(t.grad_fn is None and not t.requires_grad for t in kept)
    assert torch.equal(logits, before)
    assert logits._version == version
    logits.sum().backward()
    assert torch.equal(z.grad, torch.ones(6, 5))


@pytest.mark.parametrize(
    ("z", "y", "words"),
    [
        (torch.zeros(4, 5), torch.zeros(3, dtype=torch.long), r"got shape \(3,\)"),
        (torch.zeros(4, 5), torch.zeros(4, 4), r"got shape \(4, 4\)"),
        (torch.zeros(4, 0), None, r"at least one class, got shape \(4, 0\)"),
        (torch.tensor(1.0), None, r"classes on axis -1, got shape \(\)"),
    ],
    ids=["too few targets", "another width", "no class", "a number"],
)
def test_what_does_not_belong_together_is_refused(z, y, words):
    with pytest.raises(ValueError, match=words):
        Observation.of(z, y)


def test_a_mask_for_another_number_of_rows_is_refused():
    for rows in (1, 3):
        with pytest.raises(ValueError, match=r"mask must be of shape \(4,\), got shape"):
            Observation.of(torch.zeros(4, 5), mask=torch.ones(rows, dtype=torch.bool))


def test_a_bad_target_leaves_the_quantities_that_need_none():
    z, q = batch(4, 5), torch.full((4, 5), 0.2)
    q[1] = nan
    one, other = Observation.of(z, q), Observation.of(z)
    assert one.bad_target.tolist() == [False, True, False, False]
    assert torch.equal(one.entropy, other.entropy)
    assert one.nll.isnan().tolist() == one.statistics.brier.isnan().tolist() == [False, True, False, False]
    yes = Observation.of(z[:, 0], torch.tensor([0.0, 2.0, 1.0, nan]), binary=True, ignore_index=None)
    assert yes.bad_target.tolist() == yes.nll.isnan().tolist() == [False, True, False, True]
