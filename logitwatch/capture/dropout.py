"""Dropout layers, and a context in which they alone are at work, after which the module is as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["dropout_layers", "dropping_out"]


def dropout_layers(module: nn.Module) -> list[nn.Module]:
    """The submodules that drop something out in training and do nothing else that they would not in evaluation.

    Dropout of torch with a rate above 0, attention and recurrent layers with one, and layers of others that have no
    submodule and "drop" in the name of their class: stochastic depth, blocks. A call of ``F.dropout`` belongs to no
    layer.

    Examples:
        >>> layers = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Dropout(0.0), nn.LSTM(2, 2, 2, dropout=0.1))
        >>> [type(layer).__name__ for layer in dropout_layers(layers)]
        ['Dropout', 'LSTM']
    """
    found = [child for child in module.modules() if _drops(child)]
    # In evaluation these run in one kernel, which has no dropout, whatever their parts are set to.
    fused = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    return found + [c for c in module.modules() if isinstance(c, fused) and any(map(_drops, c.modules()))]


@contextlib.contextmanager
def dropping_out(module: nn.Module, layers: Collection[nn.Module]) -> Iterator[None]:
    """Put these layers in training and the rest in evaluation, without gradients; flags and buffers are put back.

    Compiled code is run as Python meanwhile: other flags would have it compiled anew.
    """
    flags = [(child, child.training) for child in module.modules()]
    buffers = [
        (child, name, buffer, buffer._version, buffer.clone())
        for child in module.modules()
        for name, buffer in child._buffers.items()
        if buffer is not None and not buffer.is_inference()
    ]
    # A flag is set and not `train` called, which others override and which goes down to what is within.
    try:
        for child, _ in flags:
            child.training = child in layers
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for child, flag in flags:
            child.training = flag
        for child, name, buffer, version, copy in buffers:
            child._buffers[name] = buffer
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(copy)


def _drops(module: nn.Module) -> bool:
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return module.dropout > 0
    return "drop" in type(module).__name__.lower() and next(module.children(), None) is None
