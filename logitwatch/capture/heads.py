"""The linear layer that makes the logits: which it may be, and its calls in a step that is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from logitwatch.capture.inputs import plain

__all__ = ["LinearCall", "last_linear", "linear_names", "made_by", "read_linear"]

# In evaluation these run in one kernel, unless a layer inside has a hook: a hook there would change the run.
FUSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


class LinearCall(NamedTuple):
    """What a linear layer holds, was given and gave; nothing is copied."""

    weight: Tensor  # [classes, features]
    bias: Tensor | None
    features: Tensor  # [rows, features]
    outputs: Tensor  # [rows, classes]
    result: Tensor  # what came out, to be recognised by

    @property
    def whole(self) -> bool:
        """Whether the weight is still there: one that is gathered from other ranks may be let go after forward."""
        return self.weight.untyped_storage().nbytes() >= self.weight.numel() * self.weight.element_size()


def linear_names(module: nn.Module) -> list[str]:
    """Names of the linear layers that may have a hook, in the order of registration.

    Examples:
        >>> linear_names(nn.Sequential(nn.Linear(2, 3), nn.MultiheadAttention(2, 1), nn.ReLU(), nn.Linear(3, 4)))
        ['0', '3']
    """
    named = dict(module.named_modules())
    fused = [f"{name}." for name, child in named.items() if isinstance(child, FUSED)]
    return [n for n, child in named.items() if isinstance(child, nn.Linear) and not n.startswith(tuple(fused))]


def last_linear(module: nn.Module) -> str | None:
    """Name of the linear layer that was registered last; None where there is none.

    Examples:
        >>> last_linear(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)))
        '2'
    """
    return next(reversed(linear_names(module)), None)


def read_linear(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> LinearCall | None:
    """The call of a linear layer; None where its weight is no plain parameter, or its rows no plain tensors.

    A weight that is made anew at each access, as by a parametrisation, is not asked for: that may change its state.
    """
    weight, bias = (module._parameters.get(name) for name in ("weight", "bias"))
    if weight is None or (bias is None and "bias" not in module._parameters) or not isinstance(output, Tensor):
        return None
    try:
        given = plain(args[0] if args else kwargs.get("input"), "features")
        tensors = (weight, weight if bias is None else bias, given, output)
        w, b, h, z = (plain(tensor, "tensor") for tensor in tensors)
    except TypeError:
        return None
    fits = w.ndim == 2 and h.shape[-1:] == w.shape[1:] and z.shape[-1:] == w.shape[:1] and w.numel() > 0
    if not fits or any(type(tensor) is not Tensor for tensor in (w, b, h, z)):
        return None
    return LinearCall(w, None if bias is None else b, h.reshape(-1, h.shape[-1]), z.reshape(-1, z.shape[-1]), output)


def made_by(calls: Sequence[LinearCall], logits: Tensor) -> LinearCall | None:
    """The call whose result the logits are, or are a view of; else the last one."""
    own = (call for call in calls if call.result is logits or call.result is logits._base)
    return next(own, calls[-1] if calls else None)
