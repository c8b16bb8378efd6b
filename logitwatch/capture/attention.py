"""What was heard of attention in one step: statistics of each layer, taken amid the step so that nothing is kept."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from logitwatch.capture.attention_calls import AttentionCall, read_attention
from logitwatch.functional.attention import (
    HeadStatistics,
    attention_logit_bound,
    attention_logits,
    head_statistics,
    visible_keys,
)

__all__ = ["AttentionEar", "module_names", "sampled_heads"]

# The name of attention that no module can be found for.
NAMELESS = "attention"
FUSED_LAYER = torch._transformer_encoder_layer_fwd
# Query rows are taken of so many sequences where there are more; with them go all their keys, copied and lifted.
FEW_SEQUENCES = 4
# Numbers in the keys and in the logits that are looked at: 32 and 16 MiB.
MOST_KEYS, MOST_LOGITS = 8_388_608, 4_194_304


class AttentionEar:
    """Hears the attention of one step. Its exceptions are kept for who asks, and none of the tensors are.

    Args:
        names: Name of each module of the network by its `id`.
        rows: Query rows of each head that are looked at in a call.
        generator: The private generator of a device.
        seed: It begins with this in each step, so that the rows drawn do not depend on what was drawn before.
        now: What it is timed with.

    Attributes:
        layers: What was heard, by the name of the module, in the order of its first call. Of further calls of a module
            in the step each has a place of its own, ``name #2``, unless it has one query row, as one of many tokens
            that are generated.
        unread: How many calls could not be read.
        reason: Why the last of them could not.
        seconds: What it took.
        fault: What failed last, beyond reading.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        rows: int,
        generator: Callable[[torch.device], torch.Generator],
        *,
        seed: int = 0,
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.layers: dict[str, HeadStatistics] = {}
        self.unread, self.reason, self.seconds = 0, "", 0.0
        self.fault: Exception | None = None
        self._names, self._rows, self._generator, self._seed, self._now = names, rows, generator, seed, now
        self._calls: Counter[str] = Counter()
        self._seeded: set[torch.device] = set()
        self._heard: list[weakref.ref[Any]] = []

    def hear(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, compiled: bool = False) -> None:
        """Take up a call. What backward recomputes is not heard: no mode listens there.

        Args:
            function: One of `ATTENTION`.
            args, kwargs: What it was called with.
            compiled: Whether the call was left by compiled code, where nobody knows the module any more. If the code
                was run as Python it was heard before.
        """
        start = self._now()
        try:
            queries = args[0] if args else kwargs["query"]
            if compiled and any(ref() is queries for ref in self._heard):
                return
            self._heard.append(weakref.ref(queries))
            name = None if compiled else _calling_module(self._names)
            if function is FUSED_LAYER and name:
                name += ".self_attn"  # which is the name of what attends elsewhere
            self._take_up(name or NAMELESS, function, args, kwargs)
        except Exception as error:
            self.fault = error.with_traceback(None)  # its frames would keep the tensors
        finally:
            self.seconds += self._now() - start

    def _take_up(self, name: str, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        try:
            call = read_attention(function, args, kwargs)
        except (TypeError, ValueError, KeyError) as error:
            self.unread, self.reason = self.unread + 1, f"{function.__name__}: {error}"
            return
        if 0 in (*call.queries.shape, *call.keys.shape):
            return
        found = sampled_heads(call, self._rows, self._drawn_with(call.queries.device))
        self._calls[name] += 1
        if self._calls[name] > 1 and call.queries.shape[2] > 1:
            name = f"{name} #{self._calls[name]}"
        before = self.layers.get(name)
        fits = before is not None and before.rows.shape == found.rows.shape
        self.layers[name] = before.merge(found) if before is not None and fits else found

    def _drawn_with(self, device: torch.device) -> torch.Generator:
        generator = self._generator(device)
        if device not in self._seeded:
            self._seeded.add(device)
            generator.manual_seed(self._seed)
        return generator


def sampled_heads(call: AttentionCall, rows: int, generator: torch.Generator | None = None) -> HeadStatistics:
    """Statistics of a random sample of query rows of each head, and a bound for all rows. No value is read.

    The rows are of a few sequences, at positions spread over all of them, for under a causal mask entropy depends on
    the position. They are all rows where there are no more.

    Args:
        call: What attention is taken of.
        rows: About how many rows of each head; fewer where their logits would be too many.
        generator: What the rows are drawn with.

    Examples:
        >>> q = torch.eye(4).reshape(1, 1, 4, 4)
        >>> found = sampled_heads(AttentionCall(q, q, scale=2.0), 100)
        >>> found.rows.item(), found.max_logit.item()
        (4, 2.0)
    """
    q, k, (batch, heads, length, _) = call.queries, call.keys, call.queries.shape
    bound = attention_logit_bound(q, k, scale=call.scale)
    masks: Sequence[Tensor] = call.masks
    rows = min(rows, max(1, MOST_LOGITS // (heads * k.shape[2])))
    sequences = min(batch, rows, max(FEW_SEQUENCES, ceil(rows / length)), max(1, MOST_KEYS // k[0].numel()))
    each = min(length, max(1, rows // sequences))
    device = q.device
    if sequences < batch:
        chosen = torch.rand(batch, generator=generator, device=device).topk(sequences).indices
        q, k, *masks = (x if len(x) == 1 < batch else x.index_select(0, chosen) for x in (q, k, *masks))
    positions = torch.arange(each, device=device)
    if each < length:
        spread = (positions + torch.rand(each, generator=generator, device=device)) * (length / each)
        positions = spread.long().clamp(max=length - 1)
        q, *masks = (x if x.shape[2] == 1 else x.index_select(2, positions) for x in (q, *masks))
    logits = attention_logits(q, k, scale=call.scale)
    visible, bias = visible_keys(logits, *masks, causal=positions if call.causal else None)
    return head_statistics(logits, visible=visible, bias=bias, bound=bound)


def module_names(module: nn.Module) -> dict[int, str]:
    """The name of each submodule by its `id`, as it was before anything was compiled.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> module_names(net)[id(net[0])]
        '0'
    """
    names = {id(child): name.split(".") for name, child in module.named_modules()}
    return {key: ".".join(part for part in parts if part != "_orig_mod") for key, parts in names.items()}


def _calling_module(names: Mapping[int, str]) -> str | None:
    """The name of the innermost module a method of which is running; hooks that could tell would disturb more."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and code.co_varnames[0] == "self":
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and id(module) in names:
                return names[id(module)]
        frame = frame.f_back
    return None
