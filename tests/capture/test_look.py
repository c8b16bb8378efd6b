import contextlib
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from logitwatch.capture.criteria import Call
from logitwatch.capture.explicit import observe, receiving
from logitwatch.capture.look import CriterionMode, Level, Look
from logitwatch.losses.cross_entropy import CrossEntropyLoss
from logitwatch.losses.logit_norm import LogitNormLoss
from logitwatch.losses.penalties import ZLoss

Z, Y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 1])


def call(source):
    return Call(source, Z, Y)


def test_the_sources_are_believed_in_the_order_of_the_design():
    assert [level.name for level in sorted(Level)] == ["EXPLICIT", "LOSS", "CRITERION", "FUNCTION", "OUTPUTS", "MODULE"]


def test_a_linear_layer_that_backward_runs_again_is_not_overheard_twice():
    look, linear = Look("train"), torch.nn.Linear(3, 2)

    def region(x):
        z = linear(x)
        look.overhear(linear, (x,), {}, z)
        return z

    checkpoint(region, Z.clone().requires_grad_(), use_reentrant=True).sum().backward()
    assert len(look.heads) == 1


@pytest.mark.parametrize("best", list(Level)[:-1])
def test_a_better_level_hides_every_worse_one(best):
    look = Look("train")
    for level in reversed(Level):
        if level >= best:
            look.add(level, call(level.name))
    assert look.level is best
    assert [seen.source for seen in look.calls()] == [best.name]


def test_calls_of_one_level_keep_their_order():
    look = Look("train")
    for name in "abc":
        look.add(Level.CRITERION, call(name))
    assert [seen.source for seen in look.calls()] == ["a", "b", "c"]


def test_what_was_asked_for_comes_too_after_the_primary_source():
    look = Look("train")
    look.add(Level.MODULE, call("net.3"))
    look.add(Level.FUNCTION, call("cross_entropy"))
    assert [seen.source for seen in look.calls(["net.3", "absent"])] == ["cross_entropy", "net.3"]


def test_nothing_seen_is_no_level_and_no_call():
    look = Look("train")
    look.add(Level.CRITERION, None)
    assert look.level is None
    assert look.calls(["anything"]) == []


@pytest.mark.parametrize("key", ["targets", "target", "labels", "label", "y"])
def test_a_returned_dictionary_yields_its_logits(key):
    look = Look("train")
    look.finish({"loss": torch.tensor(1.0), "logits": Z, key: Y})
    (seen,) = look.calls()
    assert look.level is Level.OUTPUTS
    assert seen.logits is Z
    assert seen.targets is Y


@pytest.mark.parametrize("result", [None, torch.tensor(1.0), {}, {"loss": 1.0}, {"logits": "text"}, [Z]])
def test_other_results_yield_nothing(result):
    look = Look("train")
    look.finish(result)
    assert look.level is None
    assert look.result is result


@pytest.mark.parametrize(
    ("z", "y", "dim"),
    [
        ((4, 3), (4,), -1),
        ((2, 3, 5), (2, 5), 1),
        ((2, 5, 3), (2, 5), -1),
        ((2, 3, 4, 4), (2, 4, 4), 1),
        ((2, 3, 5), None, -1),
    ],
)
def test_the_class_axis_of_returned_logits_follows_the_targets(z, y, dim):
    look = Look("train")
    look.finish({"logits": torch.zeros(z), **({} if y is None else {"targets": torch.zeros(y, dtype=torch.long)})})
    assert look.calls()[0].class_dim == dim


def test_the_mode_sees_the_functions_and_changes_nothing():
    look = Look("train")
    with CriterionMode(look) as mode:
        losses = [F.cross_entropy(Z, Y), F.nll_loss(Z.log_softmax(-1), target=Y), torch.relu(Z).sum()]
        F.binary_cross_entropy_with_logits(Z, (Z > 0).float())
        mode.finish()
    assert [seen.source for seen in look.calls()] == ["cross_entropy", "nll_loss", "binary_cross_entropy_with_logits"]
    assert look.level is Level.FUNCTION
    assert torch.equal(losses[0], F.cross_entropy(Z, Y))
    assert F.cross_entropy(Z, Y) is not None
    assert len(look.calls()) == 3


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_what_backward_recomputes_is_not_seen_again(use_reentrant):
    look = Look("train")
    z = Z.clone().requires_grad_()

    def region(z):
        look.add(Level.CRITERION, call("region"))
        return F.cross_entropy(2 * z, Y)

    with CriterionMode(look):
        checkpoint(region, z, use_reentrant=use_reentrant).backward()
    assert [seen.source for seen in look.calls(["cross_entropy"])] == ["region", "cross_entropy"]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_call_in_compiled_code_is_seen_once(backend):
    compiled = torch.compile(lambda z: F.cross_entropy(2 * z, Y), backend=backend, fullgraph=True)
    torch._dynamo.reset()
    for _ in range(3):
        look = Look("train")
        with CriterionMode(look) as mode:
            loss = compiled(Z)
            mode.finish()
        (seen,) = look.calls()
        torch.testing.assert_close(seen.logits, 2 * Z)
        torch.testing.assert_close(seen.result, loss)
        assert mode._kept is None


def test_looking_now_and_then_compiles_twice_and_no_more():
    compiled = torch.compile(lambda z: F.cross_entropy(2 * z, Y), backend="aot_eager", fullgraph=True)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for step in range(8):
        look = Look("train")
        with CriterionMode(look) if step % 3 == 0 else contextlib.nullcontext():
            compiled(Z)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_what_cannot_be_read_is_raised_where_calls_are_read_and_not_in_the_step():
    def unreadable(*args):
        raise AttributeError("no such option")

    look = Look("train")
    look.note(Level.CRITERION, unreadable, "criterion")
    with pytest.raises(AttributeError, match="no such option"):
        look.calls()


def two_calls(z):
    return F.cross_entropy(2 * z, Y) + F.cross_entropy(3 * z, Y)


def observed(z):
    observe(2 * z, Y, source="head", mask=Y > 0)
    return F.cross_entropy(z, Y)


OURS = CrossEntropyLoss(label_smoothing=0.1) + ZLoss(0.1)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (two_calls, [("cross_entropy", 2), ("cross_entropy", 3)]),
        (observed, [("head", 2), ("cross_entropy", 1)]),
        (lambda z: OURS(2 * z, Y) + F.cross_entropy(z, Y), [("LossSum", 2), ("cross_entropy", 1)]),
        (lambda z: LogitNormLoss()(2 * z, Y), [("LogitNormLoss", 2)]),
    ],
    ids=["two calls", "observed", "our loss", "our loss that changes the logits"],
)
def test_compiled_code_is_seen_as_it_is_without_being_compiled(function, expected):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    asked = ["head", "cross_entropy"]
    for step in range(8):
        looks = Look("train"), Look("train")
        for look, run in zip(looks, (compiled, function), strict=True):
            with contextlib.ExitStack() as opened:
                opened.enter_context(receiving(partial(look.note, Level.EXPLICIT)))
                if step % 3 == 0:
                    opened.enter_context(mode := CriterionMode(look))
                    opened.callback(mode.finish)
                value = run(Z)
        torch.testing.assert_close(value, function(Z))
        if step % 3 == 0:
            seen, eager = (look.calls(asked) for look in looks)
            assert [call.source for call in seen] == [call.source for call in eager] == [name for name, _ in expected]
            for one, other, (_, scale) in zip(seen, eager, expected, strict=True):
                torch.testing.assert_close(one.logits, scale * Z)
                assert one[3:6] == other[3:6]
                assert one.targets.tolist() == Y.tolist()
    assert OURS.lent is None
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
