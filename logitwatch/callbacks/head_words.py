"""Whether the linear layer that was overheard makes the logits, and how to say so."""

from __future__ import annotations

from logitwatch.capture.observation import Observation
from logitwatch.functional.linear_head import LinearRows, linear_rows
from logitwatch.states.head_scale import HeadScale

__all__ = ["head_rows", "head_words", "is_head"]

# Rounding of half precision is below a hundredth of the largest logit; another layer differs by about its size.
TOLERANCE = 0.05


def head_rows(observation: Observation, sample: Observation) -> LinearRows | None:
    """What the overheard layer made of its rows; None where it cannot be what made the logits.

    Args:
        observation: Every row of the call.
        sample: Some of them, to be found among what the layer gave.
    """
    call = observation.head
    if call is None or not call.whole:
        return None
    classes, logits = len(call.weight), sample.logits
    if sample.binary and observation.num_rows % classes == 0:
        logits = observation.logits.reshape(-1, classes)
    return linear_rows(*call[:4], logits) if logits.shape[1] == classes else None


def is_head(head: HeadScale) -> bool:
    """Whether W h + b was seen and is the logits; a state on the CPU.

    Examples:
        >>> is_head(HeadScale.empty())
        False
    """
    return int(head.count) > 0 and float(head.mismatch) <= TOLERANCE


def head_words(name: str | None, head: HeadScale, stage: str) -> str:
    """One sentence on the layer of this name, with the remedy where it is not the head.

    Examples:
        >>> head_words(None, HeadScale.empty(), "val").partition(":")[0]
        'No head was found in val'
    """
    if is_head(head):
        return f"Head in {stage}: `{name}`. Its W h + b is the logits to {float(head.mismatch):.1e} of the largest."
    if name is None:
        why = "there is no nn.Linear, or those there are run fused, where a hook would change the run"
    elif int(head.count) == 0:
        why = (
            f"`{name}` was not heard, or does not have as many outputs as there are classes. Compiled code and weights "
            "that are parametrised or sharded are not heard"
        )
    else:
        why = f"W h + b of `{name}` differs from the logits by {float(head.mismatch):.0%} of the largest"
    return f"No head was found in {stage}: {why}. If another layer makes the logits: GradientMonitor(head='its name')."
