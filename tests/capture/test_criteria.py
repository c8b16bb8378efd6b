import pytest
import torch
import torch.nn.functional as F
from torch import nn

from logitwatch.capture.criteria import FUNCTIONS, Lender, read_function, read_module, watched_criteria
from logitwatch.losses import LinearCrossEntropyLoss

Z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 1])


class Lends(nn.Module):
    def __init__(self, lent=None):
        super().__init__()
        self.lent, self.ignore_index = lent, -7

    def forward(self, logits, targets=None):
        return logits.sum()


def test_criteria_are_found_by_name_and_the_outermost_wins():
    outer = Lends()
    outer.inner = nn.CrossEntropyLoss()
    module = nn.ModuleDict(
        {
            "net": nn.Linear(2, 2),
            "loss": nn.CrossEntropyLoss(),
            "lossy": nn.NLLLoss(),
            "deep": nn.Sequential(nn.BCEWithLogitsLoss()),
            "ours": outer,
            "regression": nn.MSELoss(),
        }
    )
    assert list(watched_criteria(module)) == ["loss", "lossy", "deep.0", "ours"]


def test_a_criterion_is_not_inside_itself():
    assert watched_criteria(nn.CrossEntropyLoss()) == {}


def test_a_subclass_of_a_criterion_is_one():
    class Mine(nn.CrossEntropyLoss):
        pass

    assert list(watched_criteria(nn.ModuleDict({"mine": Mine()}))) == ["mine"]


def test_a_loss_that_lends_is_told_by_its_attributes():
    assert isinstance(Lends(), Lender)
    assert not isinstance(nn.CrossEntropyLoss(), Lender)


@pytest.mark.parametrize(("args", "kwargs"), [((Z, Y), {}), ((Z,), {"target": Y}), ((), {"input": Z, "target": Y})])
def test_a_call_is_read_however_its_arguments_are_given(args, kwargs):
    result = F.cross_entropy(Z, Y)
    for call in (
        read_module("loss", nn.CrossEntropyLoss(), args, kwargs, result),
        read_function(F.cross_entropy, args, kwargs, result),
    ):
        assert call.logits is Z
        assert call.targets is Y
        assert (call.class_dim, call.ignore_index, call.binary, call.reduction) == (1, -100, False, "mean")
        assert torch.equal(call.result, result)


def test_the_options_of_a_module_are_its_attributes():
    weight = torch.tensor([1.0, 2.0, 3.0])
    module = nn.CrossEntropyLoss(weight, ignore_index=1, reduction="sum", label_smoothing=0.1)
    call = read_module("loss", module, (Z, Y), {}, module(Z, Y))
    assert (call.source, call.ignore_index, call.reduction) == ("loss", 1, "sum")
    assert torch.equal(call.weight, weight)
    torch.testing.assert_close(call.recompute(Z, Y).sum(), module(Z, Y))


def test_the_options_of_a_function_may_be_positional():
    weight = torch.tensor([1.0, 2.0, 3.0])
    args = (Z, Y, weight, None, 1, None, "sum", 0.1)
    call = read_function(F.cross_entropy, args, {}, F.cross_entropy(*args))
    assert (call.ignore_index, call.reduction) == (1, "sum")
    torch.testing.assert_close(call.recompute(Z, Y).sum(), F.cross_entropy(*args))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_and_soft_targets_of_another_type_are_recomputed_with_the_rows(dtype):
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
    soft = F.one_hot(Y, 3).to(dtype)
    for targets in (Y, soft):
        call = read_function(F.cross_entropy, (Z.to(dtype), targets, weight), {}, None)
        assert call.recompute(Z, targets).dtype == Z.dtype
    call = read_function(F.nll_loss, (Z.to(dtype), Y, weight), {}, None)
    assert call.recompute(Z, Y).dtype == Z.dtype


def test_yes_or_no_criteria_have_no_ignored_target():
    labels = F.one_hot(Y, 3).float()
    for call in (
        read_module("loss", nn.BCEWithLogitsLoss(), (Z, labels), {}, None),
        read_function(F.binary_cross_entropy_with_logits, (Z, labels), {}, None),
    ):
        assert call.binary
        assert call.ignore_index is None
        assert call.recompute is not None


@pytest.mark.parametrize("option", ["weight", "pos_weight"])
def test_weights_that_broadcast_over_the_batch_are_not_recomputed(option):
    module = nn.BCEWithLogitsLoss(**{option: torch.ones(3)})
    assert read_module("loss", module, (Z, F.one_hot(Y, 3).float()), {}, None).recompute is None


@pytest.mark.parametrize(("shape", "dim"), [((3,), 0), ((4, 3), 1), ((4, 3, 2), 1), ((4, 3, 2, 2), 1)])
def test_classes_are_where_torch_has_them(shape, dim):
    logits = torch.zeros(shape)
    targets = torch.zeros(shape[:dim] + shape[dim + 1 :], dtype=torch.long)
    assert read_function(F.cross_entropy, (logits, targets), {}, None).class_dim == dim
    assert read_module("ours", Lends({}), (logits, targets), {}, None).class_dim == dim


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((Z,), {}), ((None, Y), {}), ((Z, 3), {}), (("a", "b"), {})])
def test_a_call_without_logits_and_targets_is_passed_over(function, args, kwargs):
    assert read_function(function, args, kwargs, None) is None


def test_a_loss_that_lends_hands_over_what_it_lent():
    lent = {"terms": {"loss": torch.tensor(1.0)}}
    call = read_module("ours", Lends(lent), (Z, Y), {}, torch.tensor(1.0))
    assert call.lent is lent
    assert call.ignore_index == -7
    assert read_module("ours", Lends(lent), (Z,), {}, None).targets is None
    assert read_module("ours", Lends(lent), (), {"logits": Z, "targets": Y}, None).targets is Y
    assert read_module("ours", Lends(lent), (), {}, None) is None


def test_a_loss_of_yes_or_no_decisions_that_lends_marks_the_labels_that_are_known():
    labels = torch.tensor([[1, 0, -7]] * 4)
    ours = Lends({})
    ours.binary = True
    call = read_module("ours", ours, (Z, labels), {}, None)
    assert call.binary
    assert call.mask.tolist() == [[True, True, False]] * 4
    assert read_module("ours", ours, (Z,), {}, None).mask is None


def test_nothing_read_keeps_the_graph_of_the_loss():
    z = Z.clone().requires_grad_()
    assert read_function(F.cross_entropy, (z, Y), {}, F.cross_entropy(z, Y)).result.grad_fn is None


def test_a_loss_that_makes_its_logits_lends_them_without_values():
    loss = LinearCrossEntropyLoss(3, 5)
    loss.lent = {}
    result = loss(Z, Y)
    call = read_module("head", loss, (Z,), {"target": Y}, result)
    assert call.logits.shape == (4, 5)
    assert call.logits.is_meta
    assert call.targets is Y
    assert call.device == Z.device
    assert call.lent["row_statistics"].entropy.shape == (4,)


def test_hidden_states_are_not_taken_for_logits_where_nothing_was_lent():
    assert read_module("head", LinearCrossEntropyLoss(3, 5), (Z, Y), {}, torch.zeros(())) is None


def test_what_a_subclass_computes_is_known_where_it_has_no_forward_of_its_own():
    class Named(nn.CrossEntropyLoss):
        pass

    class Mine(nn.NLLLoss):
        def forward(self, input, target):
            return super().forward(input.log_softmax(1), target)

    for module, kind in ((nn.CrossEntropyLoss(), "cross_entropy"), (Named(), "cross_entropy"), (Mine(), "")):
        call = read_module("loss", module, (Z, Y), {}, None)
        assert call.kind == kind
        assert call.recompute is not None
    assert read_module("ours", Lends({}), (Z, Y), {}, None).kind == "logit_loss"


def test_smoothing_and_weights_come_with_the_call():
    weight = torch.ones(3)
    call = read_module("loss", nn.CrossEntropyLoss(weight, label_smoothing=0.1), (Z, Y), {}, None)
    assert call.label_smoothing == 0.1
    assert call.weight is weight
    ours = Lends({})
    ours.weight, ours.reduction = weight, "sum"
    call = read_module("ours", ours, (Z, Y), {}, None)
    assert call.weight is weight
    assert call.reduction == "sum"
    ours.weight = 0.5  # of a penalty
    assert read_module("ours", ours, (Z, Y), {}, None).weight is None
    for name in ("weight", "pos_weight"):
        call = read_function(F.binary_cross_entropy_with_logits, (Z, Z), {name: weight}, None)
        assert call.weight is weight
