import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import inf, nan, nn
from torch.utils._python_dispatch import TorchDispatchMode

from logitwatch.capture.criteria import read_function, read_module
from logitwatch.capture.observation import Observation
from logitwatch.capture.proof import Proof, prove

WEIGHT = torch.tensor([0.5, 1.0, 2.0, 4.0])


def batch(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape, classes=4):
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(1))


def observed(call, **changes):
    how = {"class_dim": call.class_dim, "ignore_index": call.ignore_index, "binary": call.binary} | changes
    return Observation.of(call.logits, call.targets, **how)


def proof_of(function, *args, **kwargs):
    call = read_function(function, args, kwargs, function(*args, **kwargs))
    return prove(call, observed(call))


OPTIONS = list(itertools.product(["mean", "sum", "none"], [None, WEIGHT], [0.0, 0.2], [-100, 2]))
SHAPES = {"one row": ((4,), ()), "rows": ((9, 4), (9,)), "image": ((2, 4, 3, 5), (2, 3, 5))}


@pytest.mark.parametrize(("z_shape", "y_shape"), SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(("reduction", "weight", "smoothing", "ignore_index"), OPTIONS)
def test_it_holds_for_every_option_of_cross_entropy(z_shape, y_shape, reduction, weight, smoothing, ignore_index):
    z, y = batch(*z_shape), labels(*y_shape)
    if not y_shape:
        y = torch.tensor(1)
    how = {"reduction": reduction, "weight": weight, "label_smoothing": smoothing, "ignore_index": ignore_index}
    proof = proof_of(F.cross_entropy, z, y, **how)
    assert proof.residual < 1e-5
    assert proof.holds


@pytest.mark.parametrize("shape", [(9, 4), (2, 4, 3, 5)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_it_holds_for_soft_targets(shape, reduction, smoothing, weight):
    soft = batch(*shape, seed=2).softmax(1)
    how = {"reduction": reduction, "label_smoothing": smoothing, "weight": weight}
    assert proof_of(F.cross_entropy, batch(*shape), soft, **how).residual < 1e-5


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize(("z_shape", "y_shape"), [((9, 4), (9,)), ((2, 4, 3, 5), (2, 3, 5))])
def test_it_holds_for_log_probabilities(reduction, weight, z_shape, y_shape):
    log_p = batch(*z_shape).log_softmax(1)
    proof = proof_of(F.nll_loss, log_p, labels(*y_shape), weight=weight, reduction=reduction, ignore_index=2)
    assert proof.residual < 1e-5


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(9,), (9, 4), (2, 3, 4)])
def test_it_holds_for_yes_or_no_decisions(reduction, shape):
    y = (batch(*shape, seed=3) > 0).float()
    assert proof_of(F.binary_cross_entropy_with_logits, batch(*shape), y, reduction=reduction).residual < 1e-5


def test_it_holds_over_more_rows_than_are_computed_at_once(monkeypatch):
    monkeypatch.setattr("logitwatch.capture.proof.CHUNK_ROWS", 4)
    assert proof_of(F.cross_entropy, batch(9, 4), labels(9), ignore_index=2).residual < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_holds_in_half_precision(dtype):
    assert proof_of(F.cross_entropy, batch(64, 4).to(dtype), labels(64), weight=WEIGHT.to(dtype)).holds
    assert proof_of(F.cross_entropy, batch(64, 4).to(dtype), F.one_hot(labels(64), 4).to(dtype)).holds


def test_it_holds_for_a_module_that_was_given_keywords():
    module = nn.CrossEntropyLoss(WEIGHT, ignore_index=2, label_smoothing=0.1)
    given = {"input": batch(9, 4), "target": labels(9)}
    call = read_module("criterion", module, (), given, module(**given))
    assert prove(call, observed(call)).residual < 1e-5


def test_it_fails_for_the_wrong_class_axis():
    z, y = batch(4, 4, 4), labels(4, 4)
    call = read_function(F.cross_entropy, (z, y), {}, F.cross_entropy(z, y))
    assert prove(call, observed(call)).holds
    assert not prove(call, observed(call, class_dim=2)).holds


def test_it_fails_for_permuted_targets():
    z, y = batch(9, 4), labels(9)
    call = read_function(F.cross_entropy, (z, y), {}, F.cross_entropy(z, y))
    assert not prove(call, Observation.of(z, y.roll(1), class_dim=1)).holds


def test_it_fails_for_other_logits():
    z, y = batch(9, 4), labels(9)
    call = read_function(F.cross_entropy, (z, y), {}, F.cross_entropy(z / 10, y))
    assert not prove(call, observed(call)).holds


def test_it_fails_when_ignored_rows_are_counted():
    z, y = batch(9, 4), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0])
    call = read_function(F.cross_entropy, (z, y), {"ignore_index": 2}, F.cross_entropy(z, y, ignore_index=2))
    assert not prove(call, observed(call, ignore_index=-100)).holds


@pytest.mark.parametrize("targets", [torch.full((9,), -100), labels(9)], ids=["all ignored", "logits not finite"])
def test_two_values_that_are_not_finite_agree(targets):
    z = batch(9, 4)
    z[0, 0] = nan
    assert proof_of(F.cross_entropy, z, targets).holds


def test_a_finite_value_against_one_that_is_not_disagrees():
    for recomputed, returned in ((nan, 1.0), (1.0, inf), (inf, 1.0)):
        assert not Proof("s", torch.tensor(recomputed), torch.tensor(returned)).holds


def test_there_is_no_proof_without_a_criterion_rows_or_result():
    z, y = batch(9, 4), labels(9)
    call = read_function(F.cross_entropy, (z, y), {}, F.cross_entropy(z, y))
    assert prove(call._replace(recompute=None), observed(call)) is None
    assert prove(call._replace(result=None), observed(call)) is None
    assert prove(call, Observation.of(z, None)) is None
    assert prove(call, Observation.of(z[:0], y[:0])) is None


def test_a_loss_of_zero_is_no_division_by_zero():
    z = torch.tensor([[1000.0, 0.0]])
    assert proof_of(F.cross_entropy, z, torch.tensor([0])).holds


@pytest.mark.parametrize("how", [{}, {"weight": WEIGHT}, {"reduction": "sum"}], ids=["mean", "weighted", "sum"])
def test_it_waits_for_no_device_until_it_is_asked(how):
    class Waits(TorchDispatchMode):
        """On an accelerator these need a value, or a number of values, on the host."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            masked = func is torch.ops.aten.index.Tensor and any(
                i.dtype == torch.bool for i in args[1] if i is not None
            )
            assert not masked
            assert func.name() not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select")
            return func(*args, **(kwargs or {}))

    z, y = batch(9, 4), labels(9)
    call = read_function(
        F.cross_entropy, (z, y), {"ignore_index": 2, **how}, F.cross_entropy(z, y, ignore_index=2, **how)
    )
    with Waits():
        proof = prove(call, observed(call))
        with pytest.raises(AssertionError):
            proof.residual  # noqa: B018 - the asking
    assert proof.residual < 1e-5
