"""Watches how hard the loss pulls at the logits, at which rows and by which term, and why the logits grow."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from logitwatch.callbacks.class_shares import class_gradient, class_table
from logitwatch.callbacks.head_words import head_rows, head_words, is_head
from logitwatch.callbacks.loss_terms import loss_terms, our_loss
from logitwatch.callbacks.monitor import Monitor
from logitwatch.callbacks.scale_history import STAGES, Scale, ScaleHistory
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.heads import last_linear
from logitwatch.capture.observation import Observation
from logitwatch.capture.tap import Tap
from logitwatch.sinks.readings import Reading, Scalars, Text
from logitwatch.sinks.state_readings import histogram_reading
from logitwatch.states.gradient_summary import GradientSummary
from logitwatch.states.protocol import State

__all__ = ["GradientMonitor"]

logger = logging.getLogger("logitwatch")


class GradientMonitor(Monitor):
    """Logs the gradient of the cross-entropy on the logits, in closed form, and what makes the logits grow.

    Logged, under ``gradients/<stage>/``: ``norm``, the mean over rows of the Euclidean norm of the probabilities less
    the target, at most 1.42, and its ``histogram``; ``vanishing``, the share of rows that hardly teach any more;
    ``hardest_tenth``, the share of all norms that a tenth of the rows holds; ``largest_class``, the share of the sum of
    magnitudes that one class holds. They are of plain cross-entropy, whatever else is in the loss. After a validation
    or test also the table ``classes``: the 20 with the largest share, and how much of it pulls ``up``, as the target,
    and ``down``, as a rival. Beyond 4096 classes neighbours share a line; yes-or-no logits have none.

    Where the logits come from an ``nn.Linear``, ``logit_scale``, their root mean square without the bias, and what it
    is the product of: ``head_norm``, the root mean square norm of a row of the weight, ``feature_norm``, the mean norm
    of what the layer is given, and ``alignment``, at most 1. Their logarithms add up. ``head`` is a text that says
    which layer it is, with the proof, or that there is none. In training and validation the alert ``logit_growth``
    names the one that grew, see `ScaleHistory`.

    Of a loss of ours that is a submodule, for each of its terms ``term_norm/<term>``, the root mean square over rows of
    the norm of its gradient, and ``term_cosine/<term>``, the cosine of that with cross-entropy: below 0 it fights it.

    Args:
        bound: Norm below which the gradient of a row has vanished. At 0.01 the target has a probability above 0.99.
        head: Name of the linear layer whose output is the logits; by default the one registered last.
        class_names: Names of the classes, in their order, for the table.
        budget: See `LogitMonitor`; the smallest of all monitors counts.
        every_n_steps: See `LogitMonitor`; the smallest of all monitors counts.
        rows: See `LogitMonitor`; the largest of all monitors counts.
        source: See `LogitMonitor`.
        on_fault: See `LogitMonitor`.

    Examples:
        >>> GradientMonitor(bound=0.0)
        Traceback (most recent call last):
            ...
        ValueError: bound must be > 0, got 0.0
    """

    def __init__(
        self,
        *,
        bound: float = 0.01,
        head: str | None = None,
        class_names: list[str] | None = None,
        budget: float = 0.01,
        every_n_steps: int | None = None,
        rows: int | None = None,
        source: str | None = None,
        on_fault: str = "isolate",
    ) -> None:
        super().__init__(budget=budget, every_n_steps=every_n_steps, rows=rows, source=source, on_fault=on_fault)
        if not bound > 0:
            raise ValueError(f"bound must be > 0, got {bound}")
        self.bound, self.head, self.class_names = bound, head, class_names
        self._head: str | None = None
        self._history, self._told, self._terms = ScaleHistory(), set[str](), list[str]()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """See `Monitor.setup`; also listens to the head."""
        self._history, self._told, self._terms = ScaleHistory(), set(), []
        super().setup(trainer, pl_module, stage)
        self._head = self.head or last_linear(pl_module)
        if self._head is not None:
            Tap.of(pl_module).overhear(self._head)

    def empty(self, device: torch.device) -> GradientSummary:
        """See `Monitor.empty`."""
        return GradientSummary.empty(device=device)

    def summary(
        self, observation: Observation, sample: Observation, terms: Mapping[str, Tensor] | None, *, histograms: bool
    ) -> GradientSummary:
        """See `Monitor.summary`."""
        rows = sample.statistics
        # A yes-or-no logit is one of two classes in name only: the other one has no logit to pull at.
        norm = rows.gradient_norm / math.sqrt(2) if sample.binary else rows.gradient_norm
        counted = rows.finite & sample.valid & ~sample.bad_target
        summary = GradientSummary.of(norm, rows.correct, counted, head_rows(observation, sample), bound=self.bound)
        summary = summary.with_classes(class_gradient(sample))
        loss = None if self._session is None else our_loss(self._session.module, sample.source)
        if loss is None:
            return summary
        found = loss_terms(loss, sample)
        self._terms += [name for name in found if name not in self._terms]
        return summary.with_terms([found.get(name) for name in self._terms])

    def readings(self, state: State, tags: Tags, step: int) -> list[Reading]:
        """See `Monitor.readings`."""
        summary = cast(GradientSummary, state)
        histogram = histogram_reading(tags("gradients", "histogram"), summary.norms, step)
        values = {"norm": summary.norm(), "vanishing": summary.vanishing(), "hardest_tenth": summary.hardest()}
        said: list[Reading] = [*self._introduction(summary, tags, step)]
        if len(shares := summary.classes.shares()):
            values["largest_class"] = shares.max()
        if tags.stage != "train":
            said += class_table(tags("gradients", "classes"), step, summary.classes, self.class_names)
        if is_head(summary.head):
            values |= (factors := summary.head.factors())
            if tags.stage in STAGES and tags.loader == 0:
                parts = (factors[name].item() for name in ("head_norm", "feature_norm", "alignment"))
                said += self._history.reported(Scale(tags.stage, step, summary.accuracy().item(), *parts))
        for quantity, means in (("norm", summary.term_norms.mean), ("cosine", summary.term_cosines.mean)):
            values |= {f"term_{quantity}/{name}": mean for name, mean in zip(self._terms, means, strict=False)}
        numbers = {tags("gradients", name): value.item() for name, value in values.items()}
        scalars = Scalars(values={tag: value for tag, value in numbers.items() if not math.isnan(value)}, step=step)
        return [scalars, *said] if histogram is None else [scalars, histogram, *said]

    def rows_in(self, state: State) -> int:
        """See `Monitor.rows_in`."""
        return int(cast(GradientSummary, state).seen)

    def memory(self) -> dict[str, Any]:
        """See `Monitor.memory`."""
        return self._history.state_dict()

    def recall(self, memory: Mapping[str, Any]) -> None:
        """See `Monitor.recall`."""
        if memory:
            self._history.load_state_dict(memory)

    def _introduction(self, summary: GradientSummary, tags: Tags, step: int) -> list[Text]:
        """What there is to say of the head, once for each stage."""
        if tags.stage in self._told:
            return []
        self._told.add(tags.stage)
        words = head_words(self._head, summary.head, tags.stage)
        if not is_head(summary.head):
            logger.warning("logitwatch: %s", words)
        return [Text(tag=tags("gradients", "head"), step=step, markdown=words)]
