"""What a loss promises the monitors: to be seen wherever it is called, and to leave its statistics when asked."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function

__all__ = ["LendingLoss"]


class LendingLoss(nn.Module):
    """A loss the monitors can ask: they set ``loss.lent = {}`` before a forward pass and ``None`` after it.

    A copy or a pickle of a loss lends nothing until it is asked, and compiled code never does: there to fill a
    dictionary is a side effect, which `torch.compile` refuses inside a checkpointed region.

    Args:
        ignore_index: The target that marks a row as not counted.

    Attributes:
        term_name: What the value of this loss is called where terms are listed.
        takes_logits: Whether ``forward`` is given logits; a loss that makes them itself is not.
    """

    term_name = "loss"
    takes_logits = True

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.lent: dict[str, Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run `forward`, telling a `torch.overrides.TorchFunctionMode`, if one is active, as torch's functions do.

        So a loss is seen by the monitors also where it is no submodule of the model.
        """
        # `has_torch_function` is of the types of arguments too, which make no difference here, and under torch.compile
        # of nothing else.
        if torch._C._is_torch_function_mode_enabled():
            told: Tensor = handle_torch_function(LendingLoss.__call__, (), self, *args, **kwargs)
            return told
        value: Tensor = super().__call__(*args, **kwargs)
        return value

    @property
    def asked(self) -> bool:
        """Whether this forward is to lend."""
        return not torch.compiler.is_compiling() and self.lent is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lent": None}
