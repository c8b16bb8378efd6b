import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from logitwatch.functional.attention import (
    attention_entropy,
    attention_logit_bound,
    attention_logits,
    head_statistics,
    visible_keys,
)


def vectors(batch: int, heads: int, rows: int, size: int = 8, *, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(batch, heads, rows, size, generator=torch.Generator().manual_seed(seed))


def exact_probabilities(q: Tensor, k: Tensor, *masks: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """Logits and softmax by eager attention in float64, as torch's documentation of its function writes it."""
    q, k = q.double(), k.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    z = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    masked = z
    for mask in masks:
        masked = masked.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else masked + mask.double()
    return z, masked.softmax(-1)


def exact_entropy(p: Tensor, visible: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(-1) / visible.sum(-1).double().log()


def assert_agrees(q: Tensor, k: Tensor, *masks: Tensor, visible: Tensor, causal: Tensor | None = None) -> None:
    """What is said of all rows is what eager attention in float64 gives."""
    z, p = exact_probabilities(q, k, *masks)
    logits = attention_logits(q, k)
    # Inner products of 8 numbers in float32.
    torch.testing.assert_close(logits.double(), z, rtol=1e-5, atol=1e-5)
    given_masks = masks if causal is None else ()
    seen, bias = visible_keys(logits, *given_masks, causal=causal)
    shown = visible.expand(z.shape)
    assert torch.equal(seen.expand(z.shape), shown)
    entropy = attention_entropy(logits, visible=seen, bias=bias)
    several = shown.sum(-1) > 1
    assert torch.equal(entropy.isnan(), ~several)
    expected = exact_entropy(p, shown)
    # Probabilities to 1e-6 of float32, as many as there are keys.
    torch.testing.assert_close(entropy[several].double(), expected[several], rtol=0, atol=1e-5)
    found = head_statistics(logits, visible=seen, bias=bias, bound=attention_logit_bound(q, k))
    size = z.abs().masked_fill(~shown, -math.inf).amax((0, 2, 3))
    torch.testing.assert_close(found.max_logit.double(), size, rtol=1e-5, atol=1e-5)
    assert bool((found.bound >= found.max_logit).all())
    assert torch.equal(found.counted, several.sum((0, 2)))
    torch.testing.assert_close(found.entropy, expected.where(several, 0).sum((0, 2)), rtol=1e-5, atol=1e-4)


def test_without_a_mask_it_is_eager_attention() -> None:
    q, k = vectors(2, 3, 5, scale=3.0), vectors(2, 3, 7, seed=1)
    assert_agrees(q, k, visible=torch.ones(7, dtype=torch.bool))


def test_a_causal_row_is_measured_against_the_keys_it_sees() -> None:
    q, k = vectors(2, 3, 6, scale=3.0), vectors(2, 3, 6, seed=1)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    assert_agrees(q, k, mask, visible=mask, causal=torch.arange(6))


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 1, 1, 7), (1, 3, 5, 7), (2, 3, 5, 7)])
def test_a_mask_of_truth_values_may_broadcast(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(5)) < 0.6
    assert_agrees(vectors(2, 3, 5), vectors(2, 3, 7, seed=1), mask, visible=mask)


@pytest.mark.parametrize("least", [-math.inf, -1e9, -1e4, torch.finfo(torch.float32).min])
def test_an_additive_mask_hides_a_key_whatever_large_number_it_uses(least: float) -> None:
    hidden = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(5)) < 0.4
    slopes = -0.25 * (torch.arange(7) - torch.arange(5)[:, None]).abs()  # a bias by distance stays
    mask = torch.where(hidden, least, 0.0)
    assert_agrees(vectors(2, 3, 5), vectors(2, 3, 7, seed=1), mask + slopes, visible=~hidden)


def test_two_masks_are_both_kept() -> None:
    padding = torch.arange(7) < 5
    mask = torch.ones(6, 7, dtype=torch.bool).tril()
    assert_agrees(vectors(2, 3, 6), vectors(2, 3, 7, seed=1), padding, mask, visible=padding & mask)


def test_query_heads_share_the_keys_of_their_group() -> None:
    q, k = vectors(2, 6, 5, scale=2.0), vectors(2, 2, 7, seed=1)
    assert_agrees(q, k, visible=torch.ones(7, dtype=torch.bool))


def test_the_softmax_of_what_is_said_is_what_torch_attends_with() -> None:
    # With the unit vectors as values the output of torch's own attention is its probabilities.
    q, k = vectors(1, 4, 6, scale=2.0), vectors(1, 2, 6, seed=1)
    attended = F.scaled_dot_product_attention(
        q, k, torch.eye(6).expand(1, 2, 6, 6), is_causal=True, enable_gqa=True, scale=0.7
    )
    z = attention_logits(q, k, scale=0.7)
    visible, _ = visible_keys(z, causal=torch.arange(6))
    torch.testing.assert_close(z.masked_fill(~visible, -math.inf).softmax(-1), attended, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_numbers_of_the_same_values_in_float32(dtype: torch.dtype) -> None:
    q, k = vectors(2, 4, 5, scale=9.0).to(dtype), vectors(2, 2, 7, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = attention_logits(q, k)
    assert torch.equal(z, attention_logits(q.float(), k.float()))
    assert torch.equal(attention_logit_bound(q, k), attention_logit_bound(q.float(), k.float()))
    assert z.dtype == attention_logit_bound(q, k).dtype == torch.float32


def test_float64_stays() -> None:
    q, k = vectors(1, 1, 2).double(), vectors(1, 1, 2).double()
    assert attention_logits(q, k).dtype == attention_logit_bound(q, k).dtype == torch.float64


elements = st.one_of(st.floats(-1e6, 1e6, width=32), st.floats(-(2.0**-62), 2.0**-62, width=32))
arrays = npst.arrays("float32", npst.array_shapes(min_dims=2, max_dims=2, max_side=4), elements=elements)


@given(arrays, st.integers(1, 4), st.data())
def test_no_logit_is_beyond_the_bound(a: np.ndarray, count: int, data: st.DataObject) -> None:
    b = data.draw(npst.arrays("float32", (count, a.shape[1]), elements=elements))
    q, k = (torch.from_numpy(x)[None, None] for x in (a, b))
    bound = attention_logit_bound(q, k)
    assert attention_logits(q, k).abs().max() <= bound.max()
    assert attention_logits(q.double(), k.double()).abs().max() <= bound.max()


def test_each_head_has_the_bound_of_the_keys_it_shares() -> None:
    q, k = torch.ones(1, 4, 1, 1), torch.tensor([2.0, 7.0]).reshape(1, 2, 1, 1)
    assert attention_logit_bound(q, k).tolist() == pytest.approx([2.0, 2.0, 7.0, 7.0], rel=1e-5)  # rounded up


def test_parallel_vectors_reach_the_bound() -> None:
    q = vectors(1, 1, 1)
    # Rounding of norms and product is the room above it.
    torch.testing.assert_close(attention_logit_bound(q, q)[0], attention_logits(q, q).max(), rtol=1e-4, atol=0)


def test_a_bound_of_what_is_not_finite_is_infinite() -> None:
    q = vectors(1, 2, 3)
    q[0, 0, 1, 2], q[0, 1, 0, 0] = math.nan, math.inf
    assert attention_logit_bound(q, vectors(1, 1, 3)).tolist() == [math.inf, math.inf]


def test_a_row_that_is_not_finite_is_counted_apart_and_spoils_no_other() -> None:
    z = torch.tensor([[[[1.0, 2.0], [math.nan, 0.0], [math.inf, 0.0], [-math.inf, 0.0]]]])
    found = head_statistics(z)
    assert (found.rows.item(), found.counted.item(), found.nonfinite.item()) == (4, 1, 3)
    assert (found.max_logit.item(), found.entropy.isfinite().item()) == (2.0, True)
    assert found.bound.item() == -math.inf


def test_what_is_hidden_may_be_anything() -> None:
    z = torch.tensor([[[[1.0, 2.0, math.nan, math.inf]]]])
    found = head_statistics(z, visible=torch.tensor([True, True, False, False]))
    assert (found.counted.item(), found.nonfinite.item(), found.max_logit.item()) == (1, 0, 2.0)


def test_a_row_that_sees_nothing_has_no_largest_logit() -> None:
    found = head_statistics(torch.ones(1, 1, 2, 3), visible=torch.zeros(2, 3, dtype=torch.bool))
    assert (found.rows.item(), found.counted.item(), found.nonfinite.item()) == (2, 0, 0)
    assert found.max_logit.item() == -math.inf


def test_merged_statistics_are_those_of_all_rows() -> None:
    z = vectors(2, 3, 5, 4, scale=4.0)
    z[0, 1, 2, 0] = math.nan
    bound = torch.tensor([9.0, 8.0, 7.0])
    merged = head_statistics(z[:1], bound=bound).merge(head_statistics(z[1:], bound=bound.flip(0)))
    whole = head_statistics(z, bound=torch.tensor([9.0, 8.0, 9.0]))
    for name, a, b in zip(whole._fields, merged, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0, msg=name)  # sums of float64 in another order


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of key heads, got 3 and 2"):
        attention_logits(vectors(1, 3, 2), vectors(1, 2, 2))


def test_no_value_is_read() -> None:
    q, k = torch.empty(2, 4, 5, 8, device="meta"), torch.empty(2, 2, 7, 8, device="meta")
    z = attention_logits(q, k)
    visible, bias = visible_keys(z, torch.empty(5, 7, device="meta"), causal=torch.empty(5, device="meta"))
    found = head_statistics(z, visible=visible, bias=bias, bound=attention_logit_bound(q, k))
    assert {tuple(t.shape) for t in found} == {(4,)}
