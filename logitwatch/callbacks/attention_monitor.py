"""Watches attention: how large the logits of each head are, and how spread their softmax is."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from logitwatch.callbacks.attention_history import AttentionHistory
from logitwatch.callbacks.attention_layers import AttentionLayers
from logitwatch.callbacks.attention_report import attention_readings, attention_report
from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.scale_history import STAGES
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.look import Look
from logitwatch.capture.observation import Observation
from logitwatch.capture.tap import SILENT_LOOKS, Tap
from logitwatch.sinks.readings import Reading
from logitwatch.states.attention_summary import MOST_HEADS, MOST_LAYERS, AttentionSummary
from logitwatch.states.protocol import State

__all__ = ["AttentionMonitor"]

logger = logging.getLogger("logitwatch")

SEEN = (
    "Listened to are F.scaled_dot_product_attention, nn.MultiheadAttention and torch's encoder layers. Not seen is "
    "attention written as matmul and softmax (in transformers attn_implementation='eager': take 'sdpa'), "
    "flex_attention, kernels of other libraries, and compiled code in an evaluation and in checkpointed regions."
)


class AttentionMonitor(Monitor):
    """Logs the attention logits of every layer and head, of a sample of query rows in steps that are looked at.

    Seen are ``F.scaled_dot_product_attention`` wherever it is called, `nn.MultiheadAttention` and torch's encoder
    layers, also in the one kernel of an evaluation, and models of transformers with ``attn_implementation="sdpa"``.
    Causal and other masks, dropout and grouped-query heads are as the model has them. Layers are named by the module
    that attends, or by the order of their calls where the code is compiled. Not seen is attention
    written as matmul and softmax, ``flex_attention``, kernels of other libraries, and compiled code where nothing is
    to be kept for backward: in an evaluation and in a checkpointed region. Where nothing is seen it is said.

    Logged, under ``attention/<stage>/``: ``max_logit``, the largest \\|logit\\| of the rows looked at, so the true one
    is no smaller; ``max_logit_bound``, from the norms of queries and keys, so it is no larger, over the batches looked
    at; ``entropy``, the mean over heads of the entropy of a row over that of looking everywhere alike; ``entropy_min``,
    that of the head that looks least around; ``rows``, ``nonfinite``, ``unread`` and ``left_out`` count; and layer by
    head ``max_logit_by_head`` and ``entropy_by_head``. In training and validation the alerts
    ``attention_logit_growth``, with the factor of QK-clip for each head, and ``attention_entropy_collapse``; see
    `AttentionHistory`. In an evaluation batches 0, 1, 2, 4, 8, ... are looked at.

    Args:
        query_rows: Query rows of each head in a call that are looked at.
        tau: Logit above which growth is noted; ten times it is a warning, a hundred times it critical.
        budget: See `LogitMonitor`; the smallest of all monitors counts.
        every_n_steps: See `LogitMonitor`; the smallest of all monitors counts.
        on_fault: See `LogitMonitor`.

    Examples:
        >>> AttentionMonitor(query_rows=0)
        Traceback (most recent call last):
            ...
        ValueError: query_rows must be >= 1, got 0
    """

    def __init__(
        self,
        *,
        query_rows: int = 32,
        tau: float = 100.0,
        budget: float = 0.01,
        every_n_steps: int | None = None,
        on_fault: str = "isolate",
    ) -> None:
        super().__init__(budget=budget, every_n_steps=every_n_steps, on_fault=on_fault)
        if query_rows < 1:
            raise ValueError(f"query_rows must be >= 1, got {query_rows}")
        if not tau > 0:
            raise ValueError(f"tau must be > 0, got {tau}")
        self.query_rows, self.tau = query_rows, tau
        self._forget()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See `Monitor.setup`; also listens to attention."""
        self._forget()
        super().setup(trainer, pl_module, stage)
        Tap.of(pl_module).listen_to_attention(self.query_rows)

    def empty(self, device: torch.device) -> AttentionSummary:
        """See `Monitor.empty`."""
        return AttentionSummary.empty(device=device)

    def summary(
        self, observation: Observation, sample: Observation, terms: Mapping[str, Tensor] | None, *, histograms: bool
    ) -> None:
        """See `Monitor.summary`: nothing, as attention is not of the rows of a criterion."""

    def beside(self, look: Look) -> AttentionSummary | None:
        """See `Reporter.beside`."""
        ear = look.attention
        if ear is None:
            return None
        if ear.fault is not None:
            raise ear.fault
        if ear.unread:
            self._warn(look.stage, "unread", f"a call of attention in {look.stage} could not be read: {ear.reason}")
        heard = bool(ear.layers or ear.unread)
        self._silent[look.stage] = 0 if heard else self._silent[look.stage] + 1
        if self._silent[look.stage] == SILENT_LOOKS and look.stage != "predict":
            self._warn(look.stage, "silent", f"no attention was seen in {look.stage} so far. {SEEN}")
        device = None if self._session is None else self._session.module.device
        return self._layers.summary(ear.layers, unread=ear.unread, device=device) if heard else None

    def readings(self, state: State, tags: Tags, step: int) -> list[Reading]:
        """See `Monitor.readings`."""
        summary = cast(AttentionSummary, state)
        if int(summary.left_out):
            places = f"{MOST_LAYERS} layers and {MOST_HEADS} heads of each have a place"
            self._warn(tags.stage, "left out", f"of attention {places}: others of {tags.stage} are only counted")
        report = attention_report(summary, self._layers.names, tags, step)
        alerts = self._history.reported(report) if tags.stage in STAGES and report.layers else []
        return [*attention_readings(report, summary, tags), *alerts] if report.layers else []

    def rows_in(self, state: State) -> int:
        """See `Monitor.rows_in`."""
        return int(cast(AttentionSummary, state).rows.sum())

    def memory(self) -> dict[str, Any]:
        """See `Monitor.memory`."""
        return {"layers": self._layers.names, "history": self._history.state_dict()}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """See `Monitor.recall`."""
        if memory:
            layers = AttentionLayers(memory["layers"])
            self._history.load_state_dict(memory["history"])
            self._layers = layers

    def _forget(self) -> None:
        self._history, self._layers = AttentionHistory(self.tau), AttentionLayers()
        self._silent: Counter[str] = Counter()
        self._said: set[tuple[str, str]] = set()

    def _warn(self, stage: str, kind: str, text: str) -> None:
        if (stage, kind) not in self._said:
            self._said.add((stage, kind))
            logger.warning("logitwatch: %s", text)
