"""The linear cross-entropy as compiled code calls it: it stops there, and goes on afterwards.

A module of its own, imported only where something is compiled, since to say so loads the compiler.
"""

import torch

from logitwatch.losses.linear_function import linear_loss

__all__ = ["uncompiled_linear_loss"]

# Traced, the loop over chunks would be unrolled, and the products would be kept for a backward pass of the compiler's.
uncompiled_linear_loss = torch.compiler.disable(linear_loss)  # type: ignore[no-untyped-call, unused-ignore]
