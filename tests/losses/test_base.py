import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from logitwatch.losses import (
    ConfidencePenalty,
    CrossEntropyLoss,
    LabelSmoothingCrossEntropy,
    LogitLoss,
    LogitNormLoss,
    LogitPenalty,
    LossSum,
    ZLoss,
)
from logitwatch.losses.lending import LendingLoss

EVERY_LOSS = [
    (CrossEntropyLoss(), "cross_entropy"),
    (LabelSmoothingCrossEntropy(), "label_smoothing_cross_entropy"),
    (LogitNormLoss(), "logit_norm"),
    (ZLoss(), "z_loss"),
    (LogitPenalty(0.1), "logit_penalty"),
    (ConfidencePenalty(0.1), "confidence_penalty"),
]


def batch(seed: int = 0, rows: int = 6, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, classes, generator=generator),
        torch.randint(0, classes, (rows,), generator=generator),
    )


def lent_by(loss: LogitLoss, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Any]]:
    loss.lent = {}
    value = loss(logits, targets)
    lent, loss.lent = loss.lent, None
    return value, lent


def test_a_sum_is_the_sum_of_its_terms() -> None:
    logits, targets = batch()
    total = (CrossEntropyLoss() + 3 * ZLoss(0.1) + LogitPenalty(0.2) * 0.5)(logits, targets)
    parts = CrossEntropyLoss()(logits, targets) + 3 * ZLoss(0.1)(logits) + 0.5 * LogitPenalty(0.2)(logits)
    torch.testing.assert_close(total, parts)


def test_sums_flatten_and_scales_multiply() -> None:
    loss = 2 * (CrossEntropyLoss() + 3 * (ZLoss() + LogitPenalty(1.0)))
    assert [type(term).__name__ for term in loss.terms] == ["CrossEntropyLoss", "ZLoss", "LogitPenalty"]
    assert loss.scales == (2.0, 6.0, 6.0)


def test_the_builtin_sum_adds_losses() -> None:
    assert isinstance(sum([CrossEntropyLoss(), ZLoss()]), LossSum)


@pytest.mark.parametrize("other", [1, "x", torch.nn.CrossEntropyLoss()])
def test_only_losses_are_added(other: object) -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        CrossEntropyLoss() + other  # type: ignore[operator]


def test_a_sum_refuses_what_it_cannot_add() -> None:
    with pytest.raises(ValueError, match="one or more terms"):
        LossSum([])
    with pytest.raises(ValueError, match="got 1 and 2"):
        LossSum([ZLoss()], [1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        float("nan") * ZLoss()
    with pytest.raises(ValueError, match=r"one ignore_index, got \[-100, 0\]"):
        CrossEntropyLoss(ignore_index=0) + ZLoss()


def test_a_sum_has_the_ignore_index_of_its_terms() -> None:
    assert (CrossEntropyLoss(ignore_index=0) + ZLoss(ignore_index=0)).ignore_index == 0


@pytest.mark.parametrize(("loss", "name"), EVERY_LOSS)
def test_a_loss_lends_its_value_by_name(loss: LogitLoss, name: str) -> None:
    value, lent = lent_by(loss, *batch())
    assert list(lent) == ["terms"]
    assert list(lent["terms"]) == [name]
    assert lent["terms"][name] == value
    assert lent["terms"][name].ndim == 0


@pytest.mark.parametrize(("loss", "name"), EVERY_LOSS)
def test_nothing_lent_carries_a_graph(loss: LogitLoss, name: str) -> None:
    logits, targets = batch()
    _, lent = lent_by(2 * loss, logits.requires_grad_(), targets)
    assert not lent["terms"][name].requires_grad


def test_a_sum_lends_scaled_terms_under_distinct_names() -> None:
    logits, targets = batch()
    value, lent = lent_by(CrossEntropyLoss() + 2 * ZLoss(0.1) + ZLoss(0.3) + ZLoss(0.4), logits, targets)
    assert list(lent["terms"]) == ["cross_entropy", "z_loss", "z_loss_2", "z_loss_3"]
    torch.testing.assert_close(sum(lent["terms"].values()), value)
    torch.testing.assert_close(lent["terms"]["z_loss"], 2 * ZLoss(0.1)(logits))


def test_lending_leaves_the_value_and_the_terms_as_they_were() -> None:
    logits, targets = batch()
    loss = CrossEntropyLoss() + ZLoss()
    value, _ = lent_by(loss, logits, targets)
    assert torch.equal(value, loss(logits, targets))
    assert loss.lent is None
    assert all(term.lent is None for term in loss.terms)


def test_a_term_that_raises_is_not_left_lending() -> None:
    loss = CrossEntropyLoss() + ZLoss()
    loss.lent = {}
    with pytest.raises(ValueError, match="targets must be in"):
        loss(torch.zeros(1, 2), torch.tensor([7]))
    assert loss.terms[0].lent is None


def test_an_unreduced_term_is_lent_as_its_mean() -> None:
    logits, targets = batch()
    value, lent = lent_by(CrossEntropyLoss(reduction="none") + ZLoss(1.0), logits, targets)
    assert value.shape == targets.shape
    torch.testing.assert_close(sum(lent["terms"].values()), value.mean())


@pytest.mark.parametrize(("loss", "name"), EVERY_LOSS)
def test_copies_and_pickles_lend_nothing(loss: LogitLoss, name: str) -> None:
    loss = loss + ZLoss()
    loss.lent = {"terms": {}}
    for other in (copy.deepcopy(loss), copy.copy(loss), pickle.loads(pickle.dumps(loss))):
        assert other.lent is None
        assert torch.equal(other(*batch()), CrossEntropyLoss.__call__(loss, *batch()))
    assert loss.lent is not None
    assert not loss.state_dict()
    loss.lent = None


class Weighted(LogitLoss):
    """Takes a tensor by keyword."""

    term_name = "weighted"
    further_inputs = ("amount",)

    def forward(self, logits: Tensor, targets: Tensor | None = None, amount: Tensor | None = None) -> Tensor:
        assert amount is not None
        value = amount * logits.sum()
        self.lend(value, numbers={"amount": amount})
        return value


def test_a_sum_hands_further_tensors_to_the_terms_that_take_them() -> None:
    logits, targets = batch()
    loss = CrossEntropyLoss() + 2 * Weighted()
    loss.lent = {}
    value = loss(logits, targets, amount=torch.tensor(3.0))
    torch.testing.assert_close(value, CrossEntropyLoss()(logits, targets) + 6 * logits.sum())
    assert loss.lent["numbers"] == {"amount": 3.0}
    assert (loss + ZLoss()).further_inputs == ("amount",)


def test_a_further_tensor_that_no_term_takes_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"take \['amount'\] by keyword, got \['amuont'\]"):
        (CrossEntropyLoss() + Weighted())(*batch(), amuont=torch.tensor(1.0))


def test_a_function_mode_sees_further_tensors() -> None:
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is LogitLoss.__call__:
                seen.append(sorted(kwargs))
            return func(*args, **(kwargs or {}))

    with Mode():
        Weighted()(*batch(), amount=torch.tensor(1.0))
    assert seen == [["amount"]]


def test_hooks_on_terms_fire() -> None:
    seen = []
    loss = CrossEntropyLoss() + ZLoss()
    loss.terms[1].register_forward_hook(lambda *_: seen.append(1))
    loss(*batch())
    assert seen == [1]


@pytest.mark.parametrize(("loss", "name"), EVERY_LOSS)
def test_a_compiled_loss_has_one_graph_and_lends_nothing(loss: LogitLoss, name: str) -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    logits, targets = batch()
    compiled = torch.compile(loss + ZLoss(0.5), fullgraph=True, backend="eager")
    expected, _ = lent_by(loss + ZLoss(0.5), logits, targets)
    torch.testing.assert_close(compiled(logits, targets), expected)
    compiled.lent = {}
    torch.testing.assert_close(compiled(logits, targets), expected)
    assert compiled.lent == {}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_loss_without_forward_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        LogitLoss()  # type: ignore[abstract]


def test_a_function_mode_sees_the_outermost_loss_and_no_term_of_it():
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is LendingLoss.__call__:
                seen.append(type(args[0]).__name__)
            return func(*args, **(kwargs or {}))

    criterion = CrossEntropyLoss() + ZLoss()
    logits, targets = torch.zeros(2, 3), torch.tensor([0, 1])
    with Mode():
        value = criterion(logits, targets)
    assert seen == ["LossSum"]
    assert value == criterion(logits, targets)
