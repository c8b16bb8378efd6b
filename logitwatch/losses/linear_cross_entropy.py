"""Cross-entropy from hidden states and the weight of a head: the logits are never there all at once."""

from typing import Any

import torch
from torch import Tensor, nn

from logitwatch.losses.lending import LendingLoss
from logitwatch.losses.linear_function import LinearOptions, linear_loss

__all__ = ["LinearCrossEntropyLoss", "linear_cross_entropy"]


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    logit_norm: float | None = None,
) -> Tensor:
    r"""Cross-entropy of the logits :math:`W h + b`, in nats, which are made and dropped a few rows at a time.

    .. math::
        l = w_y \big((1 - \epsilon) (-\log p_y)\big) + \tfrac{\epsilon}{|P|} \sum_{k \in P} w_k (-\log p_k)
        + \lambda\, (\log Z)^2

    with :math:`P` the present classes, those without a bias of ``-inf``. Sums are in float32 or wider, whatever the
    type of the input; float16 is computed in float32. Gradients are made in the forward pass: the first backward pass
    hands them over, another one (``retain_graph=True``) makes them anew; with ``reduction="none"`` already the first
    does. There is no second derivative, and compiled code stops for this loss and goes on after it.

    The head may be split over ranks by its classes, a DTensor with ``Shard(0)`` as `ColwiseParallel` makes it. Then
    each of these ranks is given the same hidden states and targets, whole, and has the same loss and the same gradient
    of the hidden states, that of all classes. There is one all-gather a chunk of rows, and one sum in the end.

    Args:
        input: Hidden states ``[..., features]``.
        linear_weight: ``[classes, features]``, of the type of the input; any under autocast, which lowers both. A
            DTensor is split by its classes over one dimension of its mesh.
        target: Class indices ``[...]``, or ``ignore_index``.
        linear_bias: ``[classes]``, split as the weight is.
        weight: Class weights ``[classes]``.
        reduction: ``mean`` over the class weights of the counted rows, and of the penalty over counted rows; ``sum``;
            ``none`` keeps each row, 0 where it does not count.
        ignore_index: The target of a row that does not count. Where none counts the loss is 0, and so is its gradient.
        label_smoothing: Mass moved from the target to all present classes, in ``[0, 1]``.
        z_loss: What the squared log-partition is multiplied by, ``>= 0``; see `ZLoss`.
        soft_cap: Bound ``c`` of the logits, which become ``c tanh(z / c)``.
        logit_norm: Temperature of logits divided by their norm, see `LogitNormLoss`; not together with ``soft_cap``,
            nor with a split head.

    Returns:
        The loss, float32 or wider.

    Raises:
        ValueError: If shapes do not fit, a target is no class or another on ranks that share a head (on a CPU), or an
            option is out of its range.
        TypeError: If the input is not floating point, the weight of another type, the target not of integers, or a
            DTensor placed otherwise.

    Examples:
        >>> hidden, head = torch.tensor([[1.0], [5.0]]), torch.zeros(4, 1)
        >>> linear_cross_entropy(hidden, head, torch.tensor([2, -100]))
        tensor(1.3863)
        >>> linear_cross_entropy(hidden, head, torch.tensor([-100, -100]), z_loss=1.0)
        tensor(0.)
        >>> head_bias = torch.tensor([0.0, 0.0, float("-inf"), float("-inf")])
        >>> linear_cross_entropy(hidden, head, torch.tensor([0, 1]), linear_bias=head_bias, label_smoothing=0.1)
        tensor(0.6931)
    """
    options = LinearOptions(reduction, ignore_index, label_smoothing, z_loss, soft_cap, logit_norm)
    return _loss(input, linear_weight, target, linear_bias, weight, options.checked())


class LinearCrossEntropyLoss(LendingLoss):
    """`linear_cross_entropy` with the head in it, in place of a last `torch.nn.Linear` and a cross-entropy.

    Where a monitor asks it lends

    * ``"terms"``: the values of ``cross_entropy`` and of ``z_loss``, the mean where nothing is reduced;
    * ``"numbers"``, with a soft cap: ``soft_cap_saturation``, the mean `soft_cap_saturation` of the rows that count;
    * ``"row_statistics"``: the `RowStatistics` of every row, exact, of the logits the model predicts with;
    * ``"rows"``: those of them that every loss lends, by name;
    * ``"logits"``: a tensor on the meta device, which has their shape and no values, and
      ``"logits_of"``: a function of row indices that computes the logits of those rows; or of a split head
      ``"counted"``: whether this rank speaks for the rows, which the others have too.

    Give the weight of an embedding to the head to tie them: ``loss.linear.weight = embedding.weight``. To predict,
    call ``loss.linear``, and cap or leave alone what it gives as the loss does.

    Args:
        in_features: Width of a hidden state.
        num_classes: Number of classes.
        bias: Whether the head has one.
        weight: Class weights ``[classes]``.
        reduction: See `linear_cross_entropy`, as for all that follow.
        ignore_index: The target of a row that does not count.
        label_smoothing: Mass moved to all present classes.
        z_loss: Weight of the squared log-partition.
        soft_cap: Bound of the logits.
        logit_norm: Temperature of normalised logits.
        device: Where the head is made.
        dtype: Its type.

    Raises:
        ValueError: If an option is out of its range.

    Examples:
        >>> loss = LinearCrossEntropyLoss(2, 4, z_loss=1e-4)
        >>> loss.lent = {}
        >>> value = loss(torch.zeros(3, 2), torch.tensor([1, 2, -100]))
        >>> loss.lent["terms"]["cross_entropy"], loss.lent["row_statistics"].entropy
        (tensor(1.3863), tensor([1.3863, 1.3863, 1.3863]))
    """

    term_name = "cross_entropy"
    takes_logits = False
    weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        weight: list[float] | Tensor | None = None,
        reduction: str = "mean",
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        soft_cap: float | None = None,
        logit_norm: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        for name, size in (("in_features", in_features), ("num_classes", num_classes)):
            if size < 1:
                raise ValueError(f"{name} must be >= 1, got {size}")
        LinearOptions(reduction, ignore_index, label_smoothing, z_loss, soft_cap, logit_norm).checked()
        weight = weight if isinstance(weight, Tensor | None) else torch.tensor(weight, dtype=torch.float32)
        if weight is not None and weight.shape != (num_classes,):
            raise ValueError(f"weight must have one entry for each of {num_classes} classes, got {tuple(weight.shape)}")
        super().__init__(ignore_index)
        self.linear = nn.Linear(in_features, num_classes, bias=bias, device=device, dtype=dtype)
        self.register_buffer("weight", weight)
        self.reduction, self.label_smoothing, self.z_loss = reduction, label_smoothing, z_loss
        self.soft_cap, self.logit_norm = soft_cap, logit_norm

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss, float32 or wider.

        Args:
            input: Hidden states ``[..., features]``.
            target: Class indices ``[...]``.
        """
        options = LinearOptions(
            *(self.reduction, self.ignore_index, self.label_smoothing, self.z_loss, self.soft_cap, self.logit_norm)
        )
        lent = self.lent if self.asked else None
        head = self.linear
        return _loss(input, head.weight, target, head.bias, self.weight, options, lent=lent)

    def extra_repr(self) -> str:
        return (
            f"ignore_index={self.ignore_index}, reduction={self.reduction!r}, label_smoothing={self.label_smoothing}, "
            f"z_loss={self.z_loss}, soft_cap={self.soft_cap}, logit_norm={self.logit_norm}"
        )


def _loss(*tensors_and_options: Any, lent: dict[str, Any] | None = None) -> Tensor:
    """See `linear_loss`; compiled code is left for it and entered again."""
    if not torch.compiler.is_compiling():
        return linear_loss(*tensors_and_options, lent=lent)
    from logitwatch.losses.linear_uncompiled import uncompiled_linear_loss

    value: Tensor = uncompiled_linear_loss(*tensors_and_options)
    return value
