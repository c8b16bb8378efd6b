import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from logitwatch.capture.attention_calls import ATTENTION, read_attention
from logitwatch.capture.fused import Listening, unheard
from logitwatch.functional.attention import attention_logits, visible_keys

BATCH, HEADS, LENGTH, SIZE = 3, 2, 5, 8
WIDTH = HEADS * SIZE


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Recorder(Listening):
    """Keeps the calls of attention it sees."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in ATTENTION:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def read_from(run):
    with unheard(), Recorder() as recorder:
        result = run()
    (call,) = recorder.calls
    return call[0], read_attention(*call), result


def probabilities(call):
    """The softmax of what was read."""
    z = attention_logits(call.queries, call.keys, scale=call.scale)
    causal = torch.arange(z.shape[2]) if call.causal else None
    visible, bias = visible_keys(z, *call.masks, causal=causal)
    z = z if bias is None else z + bias
    return z.masked_fill(~visible, -torch.inf).softmax(-1)


SHAPES = {"rows": (LENGTH, SIZE), "batch": (BATCH, LENGTH, SIZE), "heads": (BATCH, HEADS, LENGTH, SIZE)}


@pytest.mark.parametrize("how", ["plain", "causal", "truth", "numbers", "full mask", "scale", "keywords"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_scaled_dot_product_attention_is_read_as_it_attends(shape, how):
    q, k = 2 * randn(*shape), randn(*shape, seed=1)
    values = torch.eye(LENGTH).expand(*shape[:-2], LENGTH, LENGTH)  # so that the output is the probabilities
    full = randn(*shape[:-1], LENGTH, seed=2)
    options = {
        "plain": {},
        "causal": {"is_causal": True},
        "truth": {"attn_mask": full[..., :1, :] < 0.8},
        "numbers": {"attn_mask": full[..., :1]},
        "full mask": {"attn_mask": full < 0.8},
        "scale": {"scale": 0.2},
        "keywords": {},
    }[how]
    if how == "keywords":
        _, call, result = read_from(lambda: F.scaled_dot_product_attention(query=q, key=k, value=values))
    else:
        _, call, result = read_from(lambda: F.scaled_dot_product_attention(q, k, values, **options))
    seen = result.nan_to_num(nan=-1).reshape(probabilities(call).shape)  # a row that sees nothing is NaN or 0
    expected = probabilities(call).nan_to_num(nan=-1)
    some = (seen.sum(-1) > 0.5) & (expected.sum(-1) > 0.5)
    assert some.float().mean() > 0.5
    torch.testing.assert_close(seen[some], expected[some], rtol=1e-4, atol=1e-6)


def test_keys_may_be_shared_by_heads():
    q, k = randn(BATCH, 4, LENGTH, SIZE), randn(BATCH, 2, LENGTH, SIZE, seed=1)
    _, call, result = read_from(
        lambda: F.scaled_dot_product_attention(
            q, k, torch.eye(LENGTH).expand(BATCH, 2, LENGTH, LENGTH), enable_gqa=True
        )
    )
    torch.testing.assert_close(result, probabilities(call), rtol=1e-4, atol=1e-6)


def test_nothing_is_copied_where_queries_and_keys_are_given():
    q, k = randn(BATCH, HEADS, LENGTH, SIZE), randn(BATCH, HEADS, LENGTH, SIZE, seed=1)
    call = read_attention(F.scaled_dot_product_attention, (q, k, k), {})
    assert (call.queries.data_ptr(), call.keys.data_ptr()) == (q.data_ptr(), k.data_ptr())


def attention(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.MultiheadAttention(WIDTH, HEADS, **options)


PADDING = torch.arange(LENGTH) >= torch.tensor([5, 3, 2])[:, None]
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
MASKS = {
    "no mask": {},
    "padding": {"key_padding_mask": PADDING},
    "causal": {"attn_mask": CAUSAL, "is_causal": True},
    "both": {"key_padding_mask": PADDING, "attn_mask": CAUSAL},
    "numbers": {"attn_mask": randn(LENGTH, LENGTH, seed=4)},
    "of each head": {"attn_mask": randn(BATCH * HEADS, LENGTH, LENGTH, seed=4) > 0.8},
}


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("options", [{"batch_first": True}, {}, {"batch_first": True, "kdim": 4, "vdim": 6}])
def test_multihead_attention_in_training_is_read_as_it_attends(options, masks):
    module = attention(**options)
    x = 3 * randn(BATCH, LENGTH, WIDTH)
    other = (randn(BATCH, LENGTH, 4, seed=1), randn(BATCH, LENGTH, 6, seed=2)) if "kdim" in options else (x, x)
    inputs = [t if "batch_first" in options else t.transpose(0, 1) for t in (x, *other)]
    function, call, (_, weights) = read_from(lambda: module(*inputs, average_attn_weights=False, **masks))
    assert function is F.multi_head_attention_forward
    found = probabilities(call)
    whole = weights.isfinite().all(-1)  # a row that sees nothing is NaN
    assert torch.equal(whole, found.isfinite().all(-1))
    torch.testing.assert_close(found[whole], weights[whole], rtol=1e-4, atol=1e-6)


def test_masks_of_truth_values_hide_where_the_function_is_called_without_its_module():
    module = attention()
    x = randn(LENGTH, BATCH, WIDTH)
    args = (x, x, x, WIDTH, HEADS, module.in_proj_weight, module.in_proj_bias, None, None, False, 0.0)
    args += (module.out_proj.weight, module.out_proj.bias)
    masks = {"key_padding_mask": PADDING, "attn_mask": CAUSAL}
    _, call, (_, weights) = read_from(
        lambda: F.multi_head_attention_forward(*args, average_attn_weights=False, **masks)
    )
    assert {mask.dtype for mask in call.masks} == {torch.bool}
    torch.testing.assert_close(probabilities(call), weights, rtol=1e-4, atol=1e-6)


def test_a_sequence_without_a_batch_is_read():
    module = attention()
    x = randn(LENGTH, WIDTH)
    _, call, (_, weights) = read_from(lambda: module(x, x, x, average_attn_weights=False))
    torch.testing.assert_close(probabilities(call)[0], weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("masks", ["no mask", "padding", "causal", "both", "of each head"])
def test_multihead_attention_in_one_kernel_is_read_as_it_attends(masks):
    module = attention(batch_first=True).eval()
    x = 3 * randn(BATCH, LENGTH, WIDTH)
    with torch.no_grad():
        function, call, (_, weights) = read_from(
            lambda: module(x, x, x, average_attn_weights=False, **{**MASKS[masks], "is_causal": False})
        )
    assert function is torch._native_multi_head_attention
    found = probabilities(call)
    some = found.isfinite().all(-1)
    torch.testing.assert_close(found[some], weights[some], rtol=1e-4, atol=1e-6)


class Attended(TorchFunctionMode):
    """Keeps the input of the attention of a layer that is not run in one kernel."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.multi_head_attention_forward:
            self.call = read_attention(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("masks", ["no mask", "padding", "causal"])
def test_an_encoder_layer_in_one_kernel_is_read_as_outside_it(norm_first, masks):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 8, batch_first=True, norm_first=norm_first).eval()
    with torch.no_grad():
        layer.norm1.weight.mul_(3).add_(0.5)
    x = 3 * randn(BATCH, LENGTH, WIDTH)
    options = {
        {"key_padding_mask": "src_key_padding_mask", "attn_mask": "src_mask"}.get(name, name): value
        for name, value in MASKS[masks].items()
        if name != "is_causal"
    }
    with torch.no_grad():
        function, call, _ = read_from(lambda: layer(x, **options))
        with Attended() as apart:
            layer(x, **options)
    assert function is torch._transformer_encoder_layer_fwd
    torch.testing.assert_close(probabilities(call), probabilities(apart.call), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_keys_that_are_added_are_not_read(options):
    module = attention(**options)
    x = randn(LENGTH, BATCH, WIDTH)
    with Recorder() as recorder:
        module(x, x, x)
    with pytest.raises(
        ValueError, match=r"keys besides those of the sequence are not read, got (bias_k|add_zero_attn)"
    ):
        read_attention(*recorder.calls[0])


def test_five_axes_are_not_read():
    q = randn(1, 1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"two, three or four axes, got shape \(1, 1, 2, 3, 4\)"):
        read_attention(F.scaled_dot_product_attention, (q, q, q), {})


def test_a_tensor_of_a_transform_is_not_read():
    # What is found in it would leave the transform.
    failed = []

    def attend(q):
        try:
            read_attention(F.scaled_dot_product_attention, (q, q, q), {})
        except TypeError as error:
            failed.append(str(error))
        return q

    torch.vmap(attend)(randn(2, 3, 4))
    assert failed == ["queries must be a plain tensor, got Tensor of torch.func or of several ranks"]


def test_under_autocast_queries_are_made_as_the_module_makes_them():
    module = attention(batch_first=True)
    x = randn(BATCH, LENGTH, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, call, _ = read_from(lambda: module(x, x, x, need_weights=False))
    assert call.queries.dtype == torch.bfloat16
