"""What each term of a loss asks of the logits: its gradient, and whether that helps the cross-entropy or fights it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype, upcast
from logitwatch.losses.base import LogitLoss, LossSum
from logitwatch.losses.inputs import class_axis, counted_rows
from logitwatch.losses.soft_cap import LogitSquashing, soft_cap

__all__ = ["GradientAccount", "cross_entropy_gradient", "gradient_accounts", "logit_gradients"]

_Value = Callable[[Tensor], Tensor]


class GradientAccount(NamedTuple):
    """One term of a loss seen from the logits, each a 0-dimensional tensor."""

    norm: Tensor  # Euclidean, of the gradient of the term on all logits given
    cosine: Tensor  # with the gradient of plain cross-entropy; NaN where one of them is 0 or there are no targets


def logit_gradients(
    loss: LogitLoss, logits: Tensor, targets: Tensor | None = None, **further: Tensor
) -> dict[str, Tensor]:
    """The gradient of each term on the logits, under the names the loss lends its terms by, scales included.

    The terms are evaluated again on a detached copy of the logits, so that a run is not touched: no graph of the user
    is used or kept, nothing is lent, no random number is drawn, no hook of the loss or of its terms fires. It costs a
    forward and a backward pass of each term; hand it a sample of the rows. Where nothing is reduced
    (``reduction="none"``) it is the gradient of the mean, as it is the mean that is lent.

    Args:
        loss: Any loss of logits.
        logits: As for the call of the loss.
        targets: As for the call of the loss.
        further: As for the call of the loss.

    Returns:
        Tensors shaped as ``logits``, float32 or wider.

    Examples:
        >>> from logitwatch.losses import CrossEntropyLoss, ZLoss
        >>> logit_gradients(CrossEntropyLoss() + ZLoss(0.5), torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        {'cross_entropy': tensor([[-0.5000,  0.5000]]), 'z_loss': tensor([[0.3466, 0.3466]])}
    """
    # A mode of the monitors would hear the criteria called here.
    with torch._C.DisableTorchFunction(), torch.inference_mode(False), torch.enable_grad():
        z = upcast(logits.detach()).clone()
        y = None if targets is None else targets.detach().clone()
        rest = {name: tensor.detach().clone() for name, tensor in further.items()}
        lent, loss.lent = loss.lent, None
        try:
            return {name: _gradient(value, z) for name, value in _terms(loss, y, rest)}
        finally:
            loss.lent = lent


def gradient_accounts(
    loss: LogitLoss, logits: Tensor, targets: Tensor | None = None, **further: Tensor
) -> dict[str, GradientAccount]:
    """Norm of the gradient of each term on the logits, and its cosine with that of plain cross-entropy.

    A cosine near -1 says that a term undoes what cross-entropy does, near 0 that it acts elsewhere. Nothing waits for
    the device.

    Args:
        loss: Any loss of logits.
        logits: As for the call of the loss; a sample of the rows will do.
        targets: As for the call of the loss; without them there is no cosine.
        further: As for the call of the loss.

    Examples:
        >>> from logitwatch.losses import ConfidencePenalty, CrossEntropyLoss
        >>> loss = CrossEntropyLoss() + ConfidencePenalty(0.5)
        >>> account = gradient_accounts(loss, torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        >>> account["cross_entropy"].norm, account["confidence_penalty"].cosine
        (tensor(0.1686), tensor(-1.))
    """
    gradients = logit_gradients(loss, logits, targets, **further)
    nothing = torch.full((), torch.nan, device=logits.device)
    if targets is None:
        return {name: GradientAccount(_norm(g), nothing) for name, g in gradients.items()}
    reference = cross_entropy_gradient(logits, targets, ignore_index=loss.ignore_index, binary=loss.binary)
    # Scaled first, as the product of two small norms would underflow.
    unit = reference / _norm(reference)
    return {name: GradientAccount(_norm(g), (g / _norm(g) * unit).sum()) for name, g in gradients.items()}


def cross_entropy_gradient(
    logits: Tensor, targets: Tensor, *, ignore_index: int = -100, binary: bool = False
) -> Tensor:
    r"""Gradient of the mean cross-entropy on the logits, :math:`(p - y) / n` over the ``n`` rows that count.

    Args:
        logits: ``[C]``, ``[N, C]`` or ``[N, C, d1, ...]``.
        targets: Class indices, shaped as ``logits`` without the class axis; or probabilities, shaped as ``logits``.
        ignore_index: Rows with this target do not count.
        binary: Whether each logit is a yes-or-no decision of its own, of which ``n`` count.

    Returns:
        A tensor shaped as ``logits``, without a graph, float32 or wider; 0 in rows that do not count.

    Examples:
        >>> cross_entropy_gradient(torch.zeros(2, 2), torch.tensor([0, -100]))
        tensor([[-0.5000,  0.5000],
                [ 0.0000,  0.0000]])
    """
    z, axis = upcast(logits.detach()), class_axis(logits)
    if binary:
        known = targets != ignore_index
        return ((z.sigmoid() - targets.to(z.dtype)) / known.sum().clamp(min=1)).masked_fill(~known, 0.0)
    counted, p = counted_rows(logits, targets, ignore_index), z.softmax(axis)
    if counted is None:
        mass = targets.sum(axis, keepdim=True)
        return (mass * p - targets) / max(1, z.numel() // z.shape[axis])
    index = torch.where(counted, targets.long(), 0).unsqueeze(axis)
    difference = p.scatter_add(axis, index, torch.full_like(p.gather(axis, index), -1.0))
    return (difference / counted.sum().clamp(min=1)).masked_fill(~counted.unsqueeze(axis), 0.0)


def _terms(loss: LogitLoss, targets: Tensor | None, further: dict[str, Tensor]) -> list[tuple[str, _Value]]:
    """The terms a loss lends, by name, as functions of the logits."""
    if isinstance(loss, LogitSquashing):
        return [(name, _capped(value, loss.cap)) for name, value in _terms(loss.loss, targets, further)]
    if isinstance(loss, LossSum):
        pairs = zip(loss.term_names(), loss.terms, loss.scales, strict=True)
        return [
            (name, _value(term, scale, loss.targets_of(term, targets), further))
            for name, term, scale in pairs
            if isinstance(term, LogitLoss)
        ]
    return [(loss.term_name, _value(loss, 1.0, targets, further))]


def _capped(value: _Value, cap: float) -> _Value:
    return lambda z: value(soft_cap(z, cap=cap))


def _value(term: LogitLoss, scale: float, targets: Tensor | None, further: dict[str, Tensor]) -> _Value:
    taken = {name: further[name] for name in term.further_inputs if name in further}
    # `forward` and not a call: nothing of the user's is to fire.
    return lambda z: scale * term.forward(z, targets, **taken).mean()


def _gradient(value: _Value, z: Tensor) -> Tensor:
    leaf = z.requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    return gradient


def _norm(x: Tensor) -> Tensor:
    # Squares of gradients that float32 still holds would underflow in it.
    norm: Tensor = torch.linalg.vector_norm(x, dtype=accumulator_dtype(x.device)).to(x.dtype)
    return norm
