"""Where precision is decided: promotion of half types, and the few places that take exponentials and logarithms."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["accumulator_dtype", "centred_exp", "chunk_elements", "full_precision", "maybe_absent", "upcast"]

# exp of these is below half the smallest subnormal of the type: a class this far under the maximum has probability 0.
UNDERFLOW = {torch.float32: -104.0, torch.float64: -746.0}


def upcast(x: Tensor) -> Tensor:
    """The same numbers in float32 or wider: half and integer types are lifted, float32 and float64 are left alone.

    Args:
        x: Any real tensor.

    Returns:
        The tensor in ``promote_types(x.dtype, float32)``.

    Raises:
        TypeError: If ``x`` is complex; a complex number has no order, so it cannot be a logit.

    Examples:
        >>> upcast(torch.tensor([1.0], dtype=torch.bfloat16)).dtype, upcast(torch.tensor([1])).dtype
        (torch.float32, torch.float32)
    """
    if x.is_complex():
        raise TypeError(f"logits must be real, got {x.dtype}")
    return x.to(torch.promote_types(x.dtype, torch.float32))


def accumulator_dtype(device: torch.device) -> torch.dtype:
    """The widest floating type of a device: float64, or float32 where a device (Apple's) has nothing wider.

    Examples:
        >>> accumulator_dtype(torch.device("cpu"))
        torch.float64
    """
    return torch.float32 if device.type == "mps" else torch.float64


def chunk_elements(device: torch.device) -> int:
    """How many numbers to work on at a time, so that a pass allocates next to nothing and stays fast.

    On a CPU two float32 buffers of this many elements, 512 KiB each, stay in a core's cache; on an accelerator a chunk
    has to be large enough to keep it busy, and 64 MiB are little beside what is in its memory.

    Examples:
        >>> chunk_elements(torch.device("cpu"))
        131072
    """
    return 131_072 if device.type == "cpu" else 16_777_216


def maybe_absent(smallest: Tensor) -> bool:
    """Whether a class may be absent; on an accelerator always yes, since looking would wait for the device.

    Args:
        smallest: Smallest logit of each row, float32 or wider.

    Examples:
        >>> maybe_absent(torch.tensor([0.0, 1.0])), maybe_absent(torch.tensor([0.0, float("-inf")]))
        (False, True)
    """
    return smallest.device.type != "cpu" or bool((smallest.numpy() == -torch.inf).any())


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context without autocast, under which inner products would run in half precision.

    Examples:
        >>> x = torch.ones(1)
        >>> with torch.autocast("cpu", dtype=torch.bfloat16), full_precision(x.device):
        ...     torch.linalg.vecdot(x, x).dtype
        torch.float32
    """
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def centred_exp(logits: Tensor, *, dim: int = -1) -> tuple[Tensor, Tensor, Tensor]:
    r"""Shifted logits, their exponentials and the sum of these: what every softmax quantity is made from.

    .. math:: c_k = \max(z_k - \max_j z_j,\, -104), \qquad e_k = \exp c_k, \qquad s = \sum_k e_k

    The shift keeps any magnitude finite. The floor changes no probability (``exp(-104)`` is 0 in float32) and makes
    an absent class, logit ``-inf``, contribute 0 instead of ``0 * inf``.

    Args:
        logits: Real tensor with classes on ``dim``.
        dim: The class axis.

    Returns:
        ``(c, e, s)``: ``c`` and ``e`` shaped as ``logits``, ``s`` without ``dim``, all float32 or wider. A row
        without any finite class is NaN throughout.

    Examples:
        >>> c, e, s = centred_exp(torch.tensor([1e30, 1e30, float("-inf")]))
        >>> c.tolist(), e.tolist(), s.item()
        ([0.0, 0.0, -104.0], [1.0, 1.0, 0.0], 2.0)
    """
    z = upcast(logits)
    centred = (z - z.amax(dim, keepdim=True)).clamp(min=UNDERFLOW[z.dtype])
    e = centred.exp()
    return centred, e, e.sum(dim)
