"""How large attention logits were at each report, and when that is worth a word: the rules of `AttentionMonitor`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from logitwatch.callbacks.attention_report import AttentionReport
from logitwatch.callbacks.scale_history import STAGES
from logitwatch.sinks.readings import Alert

__all__ = ["AttentionHistory"]

LEVELS = ("info", "warning", "critical")
# Each level is so many times the one before, and an episode is over this far below the first.
STEP, OVER = 10.0, 0.8
# A head whose mean entropy is below this looks at one key, and this share of the heads is many.
COLLAPSED, MANY = 0.05, 0.25
# Heads named in an alert.
MOST_NAMED = 8


@dataclass
class AttentionHistory:
    """Two rules over the reports of each stage; all that is kept is plain numbers.

    *Growth*: the largest attention logit is above ``tau``, ten times or a hundred times ``tau``. Each level is said
    once in an episode, which is over when it is below 0.8 ``tau``.

    *Entropy collapse*: more than a quarter of the heads have a mean normalised entropy below 0.05. Said once in an
    episode, which is over below a fifth.

    Args:
        tau: The largest logit that is no matter; 100 by the experience of Kimi K2 (https://arxiv.org/abs/2507.20534).

    Examples:
        >>> import torch
        >>> history = AttentionHistory()
        >>> for step, largest in enumerate([50.0, 120.0, 90.0, 130.0, 2000.0, 60.0, 150.0]):
        ...     heads = torch.tensor([[largest, 1.0]])
        ...     for alert in history.reported(AttentionReport("train", step, ["net"], heads, heads, 0 * heads + 0.5)):
        ...         print(alert.step, alert.level, alert.title)
        1 info An attention logit of 120, above 100: net, head 0
        4 warning An attention logit of 2e+03, above 1e+03: net, head 0
        6 info An attention logit of 150, above 100: net, head 0
    """

    tau: float = 100.0
    # By where, with the stages there from the beginning so that what is saved does not grow.
    _told: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))  # level of the episode under way
    _collapsed: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(STAGES, False))

    def reported(self, seen: AttentionReport) -> list[Alert]:
        """Take up one more report; what there is to say about it."""
        alerts = [self._growth(seen), self._collapse(seen)]
        return [alert for alert in alerts if alert is not None]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"told": dict(self._told), "collapsed": dict(self._collapsed)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on as saved."""
        self._told, self._collapsed = dict(saved["told"]), dict(saved["collapsed"])

    def _growth(self, seen: AttentionReport) -> Alert | None:
        sizes = seen.max_logit.nan_to_num(nan=-math.inf)
        largest = sizes.max().item()
        if largest == -math.inf:
            return None
        level = sum(largest > self.tau * STEP**n for n in range(len(LEVELS)))
        told = self._told.get(seen.where, 0)
        if largest < OVER * self.tau:
            told = 0
        self._told[seen.where] = max(told, level)
        if level <= told:
            return None
        layer, head = divmod(int(sizes.argmax()), sizes.shape[1])
        return Alert(
            rule="attention_logit_growth",
            step=seen.step,
            level=LEVELS[level - 1],
            title=f"An attention logit of {largest:.3g}, above {self.tau * STEP ** (level - 1):.3g}: "
            f"{seen.layers[layer]}, head {head}",
            text=self._advice(seen, sizes, largest, seen.bound[layer, head].item()),
            values={"max_logit": largest, "bound": seen.bound[layer, head].item()},
        )

    def _advice(self, seen: AttentionReport, sizes: Tensor, largest: float, bound: float) -> str:
        order = sizes.flatten().argsort(descending=True).tolist()
        over = [divmod(place, sizes.shape[1]) for place in order if sizes.flatten()[place] > self.tau]
        named = (f"{seen.layers[i]} head {j} by {math.sqrt(self.tau / sizes[i, j].item()):.3g}" for i, j in over)
        heads = ", ".join(list(named)[:MOST_NAMED]) + (f" and {n} more" if (n := len(over) - MOST_NAMED) > 0 else "")
        return (
            f"In {seen.where} the query rows looked at have a logit of {largest:.4g}, and no row of that head has one "
            f"above {bound:.4g}. A softmax of such logits looks at one key and has next to no gradient, and "
            "they grow until training diverges, often long before the loss shows it. Normalise queries and keys "
            "(QK-norm), or put weight decay on their projections or the learning rate down. QK-clip brings each head "
            f"back to {self.tau:.3g}: multiply the weights that make its queries and those that make its keys, "
            f"{heads}. Where heads share their keys, multiply the queries alone, by the square of that."
        )

    def _collapse(self, seen: AttentionReport) -> Alert | None:
        known = ~seen.entropy.isnan()
        if not known.any():
            return None
        low = known & (seen.entropy < COLLAPSED)
        share = low.sum().item() / known.sum().item()
        before = self._collapsed.get(seen.where, False)
        self._collapsed[seen.where] = share > MANY or (before and share >= OVER * MANY)
        if before or share <= MANY:
            return None
        layers = [f"{name} {n} of {of}" for name, n, of in _by_layer(seen.layers, low, known)]
        return Alert(
            rule="attention_entropy_collapse",
            step=seen.step,
            level="warning",
            title=f"{share:.0%} of the attention heads look at one key",
            text=(
                f"In {seen.where} their mean entropy is below {COLLAPSED:.0%} of that of looking everywhere alike: "
                f"{', '.join(layers[:MOST_NAMED])}. Collapsed heads pass on one token and hardly learn, and training "
                "tends to become unstable with them. Lower the learning rate or warm it up longer, normalise queries "
                "and keys (QK-norm), or bound the spectral norm of their weights. Some heads of a healthy model look "
                "at the first token or at the one before: what counts is whether the share grows."
            ),
            values={"share": share, "entropy": seen.entropy[known].mean().item()},
        )


def _by_layer(layers: Sequence[str], low: Tensor, known: Tensor) -> list[tuple[str, int, int]]:
    """Layers with collapsed heads, how many they are, and of how many; the worst first."""
    found = zip(layers, low.sum(1).tolist(), known.sum(1).tolist(), strict=True)
    return sorted((row for row in found if row[1]), key=lambda row: -row[1])
