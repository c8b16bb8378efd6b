"""Which functions of torch attend, and how their arguments become queries, keys and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from logitwatch.capture.inputs import plain

__all__ = ["ATTENTION", "AttentionCall", "read_attention"]


class AttentionCall(NamedTuple):
    """What attention is taken of; nothing is copied where the function was given queries and keys."""

    queries: Tensor  # [batch, heads, rows, d]
    keys: Tensor  # [batch, key heads, keys, d]
    # Each broadcasts to [batch, heads, rows, keys] and has its four axes: True where seen, or numbers to be added.
    masks: tuple[Tensor, ...] = ()
    causal: bool = False
    scale: float | None = None


def read_attention(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> AttentionCall:
    """The call of one of `ATTENTION`, detached. Where queries and keys are made inside it, they are made once more.

    Raises:
        ValueError: If the arguments are of a kind that is not read.
        TypeError: If one of them is no plain dense tensor.

    Examples:
        >>> q, k = torch.ones(2, 4, 5, 8), torch.ones(2, 2, 7, 8)
        >>> call = read_attention(F.scaled_dot_product_attention, (q, k, k), {"is_causal": True})
        >>> call.queries.shape, call.causal
        (torch.Size([2, 4, 5, 8]), True)
        >>> read_attention(F.scaled_dot_product_attention, (q.to_sparse(), k, k), {})
        Traceback (most recent call last):
            ...
        TypeError: queries must be a dense tensor, got torch.float32 in torch.sparse_coo
    """
    names, read = ATTENTION[function]
    return read({**dict(zip(names, args, strict=False)), **kwargs})


def _read_product(given: Mapping[str, Any]) -> AttentionCall:
    """``scaled_dot_product_attention``: the axis before the rows is that of the heads, where there are four axes."""
    query, key = _dense(given["query"], "queries"), _dense(given["key"], "keys")
    axes = query.ndim
    if not 2 <= axes <= 4:
        raise ValueError(f"queries must have two, three or four axes, got shape {tuple(query.shape)}")
    mask = given.get("attn_mask")
    masks = () if mask is None else (_four(_dense(mask, "mask"), axes),)
    q, k = _four(query, axes), _four(key, axes)
    return AttentionCall(
        q, k.expand(len(q), *k.shape[1:]), masks, bool(given.get("is_causal", False)), given.get("scale")
    )


def _read_module(given: Mapping[str, Any]) -> AttentionCall:
    """``multi_head_attention_forward``, which `nn.MultiheadAttention` calls, the sequence before the batch."""
    unread = [name for name in ("bias_k", "bias_v", "static_k", "static_v") if given.get(name) is not None]
    if unread or given.get("add_zero_attn"):
        raise ValueError(f"keys besides those of the sequence are not read, got {', '.join(unread) or 'add_zero_attn'}")
    query, key = _dense(given["query"], "queries"), _dense(given["key"], "keys")
    query, key = (x.unsqueeze(1) if x.ndim == 2 else x for x in (query, key))
    if given.get("use_separate_proj_weight"):
        weights = [_dense(given[name], name) for name in ("q_proj_weight", "k_proj_weight")]
    else:
        weights = list(_dense(given["in_proj_weight"], "weight").chunk(3))
    heads = given["num_heads"]
    q, k = _projected((query, key), weights, given.get("in_proj_bias"), heads)
    q, k = q.permute(1, 2, 0, 3), k.permute(1, 2, 0, 3)
    masks = []
    if (padding := given.get("key_padding_mask")) is not None:
        masks.append(_dense(padding, "mask").reshape(-1, 1, 1, k.shape[2]))
    if (mask := given.get("attn_mask")) is not None:
        pairs = _dense(mask, "mask")
        masks.append(pairs.reshape(-1, heads if pairs.ndim == 3 else 1, *pairs.shape[-2:]))
    return AttentionCall(q, k, tuple(~mask if mask.dtype is torch.bool else mask for mask in masks))


def _read_fused(given: Mapping[str, Any]) -> AttentionCall:
    """The kernels of an evaluation, batch first; that of a whole encoder layer may normalise before it attends."""
    query = _dense(given["query"], "queries")
    if given.get("norm_first"):
        weight, bias = _dense(given["norm_weight"], "weight"), _dense(given["norm_bias"], "bias")
        query = F.layer_norm(query, query.shape[-1:], weight, bias, given["eps"])
    key = _dense(given["key"], "keys") if "key" in given else query
    weights = _dense(given["qkv_weight"], "weight").chunk(3)
    q, k = _projected((query, key), weights, given.get("qkv_bias"), given["num_heads"])
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    if given.get("mask") is None:
        return AttentionCall(q, k)
    mask = _dense(given["mask"], "mask").bool()  # what is not 0 is hidden, as the kernel has it
    # 1 is of the keys of each sequence, 0 and 2 are of pairs.
    return AttentionCall(q, k, (~(mask[:, None, None, :] if given.get("mask_type") == 1 else _four(mask, 4)),))


def _projected(inputs: Sequence[Tensor], weights: Sequence[Tensor], bias: Any, heads: int) -> list[Tensor]:
    """Queries and keys with their heads apart, ``[..., heads, d]``."""
    biases = (None, None) if bias is None else _dense(bias, "bias").chunk(3)
    made = (F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=False))
    return [x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads) for x in made]


def _four(x: Tensor, axes: int) -> Tensor:
    """With the four axes of batch, heads, rows and the last, where queries have ``axes`` of them."""
    if axes == 3 and x.ndim == 3:
        return x.unsqueeze(1)
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def _dense(x: Any, name: str) -> Tensor:
    tensor = plain(x, name)
    if type(tensor) is not Tensor or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        raise TypeError(f"{name} must be a plain tensor, got {type(tensor).__name__} of torch.func or of several ranks")
    return tensor


_PRODUCT = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
_MODULE = (
    *("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v"),
    *("add_zero_attn", "dropout_p", "out_proj_weight", "out_proj_bias", "training", "key_padding_mask", "need_weights"),
    *("attn_mask", "use_separate_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
    *("static_k", "static_v"),
)
_NATIVE = (
    *("query", "key", "value", "embed_dim", "num_heads", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias", "mask"),
    *("need_weights", "average_attn_weights", "mask_type"),
)
_LAYER = (
    *("query", "embed_dim", "num_heads", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias", "use_gelu"),
    *("norm_first", "eps", "norm_weight", "norm_bias", "norm_weight_2", "norm_bias_2"),
    *("ffn_weight_1", "ffn_bias_1", "ffn_weight_2", "ffn_bias_2", "mask", "mask_type"),
)

# Names of the parameters in order, as far as they are read, and who reads them.
ATTENTION: dict[Any, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], AttentionCall]]] = {
    F.scaled_dot_product_attention: (_PRODUCT, _read_product),
    F.multi_head_attention_forward: (_MODULE, _read_module),
    torch._native_multi_head_attention: (_NATIVE, _read_fused),
    torch._transformer_encoder_layer_fwd: (_LAYER, _read_fused),
}
