import copy
import pickle

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from logitwatch.losses.lending import LendingLoss


class Squares(LendingLoss):
    takes_logits = False

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        if self.lent is not None:
            self.lent["seen"] = scale
        return scale * x.square().sum()


def test_a_loss_is_asked_by_a_dictionary() -> None:
    loss = Squares(ignore_index=-7)
    assert not loss.asked
    loss.lent = {}
    assert loss.asked
    assert loss(torch.ones(2), scale=3.0) == 6
    assert loss.lent == {"seen": 3.0}
    assert loss.ignore_index == -7


def test_copies_and_pickles_are_not_asked() -> None:
    loss = Squares()
    loss.lent = {"a": 1}
    for other in (copy.copy(loss), copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other.lent is None


def test_a_function_mode_is_told_of_a_call_with_all_its_arguments() -> None:
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is LendingLoss.__call__:
                seen.append((type(args[0]).__name__, len(args), kwargs))
            return func(*args, **(kwargs or {}))

    with Mode():
        Squares()(torch.ones(2), scale=2.0)
    assert seen == [("Squares", 2, {"scale": 2.0})]
