"""Cross-entropy of logits divided by their norm: confidence has to come from the direction, not the length."""

import torch
from torch import Tensor

from logitwatch.functional.numerics import upcast
from logitwatch.losses.base import LogitLoss
from logitwatch.losses.cross_entropy import CrossEntropyLoss, softmax_cross_entropy
from logitwatch.losses.inputs import check_logits, check_positive, class_axis

__all__ = ["LogitNormLoss", "logit_norm_cross_entropy"]

# Large enough that a row of zeros, as of a head that starts at zero, pulls no more than 1 / (eps * temperature);
# small enough to change a row of norm 1 by 5e-7 of itself.
EPS = 1e-3


def logit_norm_cross_entropy(
    logits: Tensor, targets: Tensor, *, temperature: float = 0.04, eps: float = EPS, dim: int = -1
) -> Tensor:
    r"""Cross-entropy of normalised logits, in nats. Unchanged when the logits of an example are scaled.

    .. math:: -\log \mathrm{softmax}\big(z / (\tau \sqrt{\lVert z \rVert^2 + \epsilon^2})\big)_y

    Its floor is not 0: logits on a sphere leave
    :math:`\log\big(1 + (K - 1) \exp(-\sqrt{K / (K - 1)} / \tau)\big)` for ``K`` classes.

    Args:
        logits: Unnormalised log-probabilities, any shape with classes on ``dim``. Absent classes (``-inf``) stay
            absent and do not enter the norm.
        targets: Class indices, shaped as ``logits`` without ``dim``; or probabilities, shaped as ``logits``.
        temperature: ``tau > 0``.
        eps: Keeps the gradient of a row of zeros finite.
        dim: The class axis, which the result drops.

    Returns:
        Loss of each example, float32 or wider.

    References:
        Wei et al., "Mitigating Neural Network Overconfidence with Logit Normalization", 2022.

    Examples:
        >>> logits = torch.tensor([[3.0, 4.0], [300.0, 400.0], [0.0, float("-inf")]])
        >>> logit_norm_cross_entropy(logits, torch.tensor([1, 1, 0]), temperature=1.0)
        tensor([0.5981, 0.5981, 0.0000])
    """
    return softmax_cross_entropy(_normalised(logits, temperature, eps, dim), targets, dim=dim)


class LogitNormLoss(LogitLoss):
    """Mean `logit_norm_cross_entropy`. Trains on normalised logits; predict, and measure calibration, on the raw ones.

    Args:
        temperature: What the normalised logits are divided by; small enough that the loss can get near 0.
        ignore_index: Rows with this target do not count.
        reduction: ``mean`` over counted rows, ``sum`` or ``none``.
        eps: Added to the norm in quadrature.

    Raises:
        ValueError: If ``temperature`` or ``eps`` is not positive, or ``reduction`` is unknown.

    Examples:
        >>> loss = LogitNormLoss(temperature=1.0)
        >>> loss(torch.tensor([[3.0, 4.0]]), torch.tensor([1])), loss(torch.zeros(1, 2), torch.tensor([-100]))
        (tensor(0.5981), tensor(0.))
    """

    term_name = "logit_norm"

    def __init__(
        self, temperature: float = 0.04, ignore_index: int = -100, reduction: str = "mean", eps: float = EPS
    ) -> None:
        check_positive("temperature", temperature)
        check_positive("eps", eps)
        super().__init__(ignore_index)
        self.temperature = temperature
        self.eps = eps
        self.cross_entropy = CrossEntropyLoss(ignore_index=ignore_index, reduction=reduction)

    def forward(self, logits: Tensor, targets: Tensor | None = None) -> Tensor:
        """See `LogitLoss.forward`; targets are required."""
        check_logits(logits)
        value: Tensor = self.cross_entropy(_normalised(logits, self.temperature, self.eps, class_axis(logits)), targets)
        # The rows of the inner loss are of normalised logits, so only the value is lent.
        self.lend(value)
        return value

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, eps={self.eps}"


def _normalised(logits: Tensor, temperature: float, eps: float, dim: int) -> Tensor:
    """Present logits over temperature times norm. Squares are of logits over their largest, so none overflows."""
    z = upcast(logits)
    absent = z == -torch.inf
    present = z.masked_fill(absent, 0.0)
    unit = present.detach().abs().amax(dim, keepdim=True).clamp(min=1.0)
    scaled = present / unit
    norm = (scaled.square().sum(dim, keepdim=True) + (eps / unit).square()).sqrt()
    return (scaled / (temperature * norm)).masked_fill(absent, -torch.inf)
