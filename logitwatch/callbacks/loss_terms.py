"""The loss a source names, where it is one of ours, and the gradient of each of its terms on some rows."""

from __future__ import annotations

from torch import Tensor, nn

from logitwatch.capture.observation import Observation
from logitwatch.losses.base import LogitLoss
from logitwatch.losses.gradients import gradient_accounts

__all__ = ["loss_terms", "our_loss"]

# Logits whose gradients are taken, forward and backward through each term: a millisecond or so.
ELEMENTS, FEWEST = 65_536, 8


def our_loss(module: nn.Module, source: str) -> LogitLoss | None:
    """The loss of classes of this name among the submodules, if all of it is ours and it needs no further tensor.

    The forward of anybody else's may count its calls or draw random numbers, so it is not called once more.

    Examples:
        >>> from logitwatch.losses import ZLoss
        >>> type(our_loss(nn.ModuleDict({"loss": ZLoss(1.0)}), "loss")), our_loss(nn.Sequential(nn.Linear(1, 1)), "0")
        (<class 'logitwatch.losses.penalties.ZLoss'>, None)
    """
    try:
        loss = module.get_submodule(source)
    except AttributeError:
        return None
    if not isinstance(loss, LogitLoss) or loss.further_inputs or loss.binary:
        return None
    own = (type(part).__module__.startswith(("logitwatch.losses.", "torch.nn.")) for part in loss.modules())
    return loss if all(own) else None


def loss_terms(loss: LogitLoss, sample: Observation) -> dict[str, tuple[Tensor, Tensor]]:
    """By term, the root mean square over rows of its gradient's norm, and its cosine with that of cross-entropy.

    Of a loss that is the mean over rows, from the first of these, as many as have 65,536 logits.

    Args:
        loss: A loss of classes.
        sample: Rows it was given; of rows without logits nothing is said.
    """
    if sample.logits.device != sample.valid.device:  # rows put together from shards have no logits
        return {}
    few = slice(max(FEWEST, ELEMENTS // sample.num_classes))
    counted = (sample.valid & ~sample.bad_target & sample.statistics.finite)[few]
    targets = None if sample.targets is None else sample.targets[few]
    if targets is not None and targets.ndim == 1:
        targets = targets.masked_fill(~counted, loss.ignore_index)
    # The gradient of a mean over n rows is 1/n of that of each row.
    rows = counted.sum().sqrt()
    accounts = gradient_accounts(loss, sample.logits[few], targets)
    return {name: (account.norm * rows, account.cosine) for name, account in accounts.items()}
