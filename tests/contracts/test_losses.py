"""What every loss promises, see `logitwatch.losses.base.LogitLoss`; the numbers themselves are in tests/losses."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import Tensor

import logitwatch.losses as facade
from logitwatch.losses import (
    BalancedSoftmax,
    BinaryCrossEntropyWithLogits,
    ConfidencePenalty,
    CrossEntropyLoss,
    DistillationLoss,
    DualFocalLoss,
    FocalLoss,
    LabelSmoothingCrossEntropy,
    LogitAdjustedCrossEntropy,
    LogitLoss,
    LogitNormLoss,
    LogitPenalty,
    LogitSquashing,
    LossSum,
    MarginLabelSmoothing,
    MaxLogitPenalty,
    PolyLoss,
    ScheduledFocalLoss,
    UnlikelihoodLoss,
    ZLoss,
    logit_gradients,
)

CLASSES = 5
IGNORED = -100
ABSENT = -torch.inf
COUNTS = [50.0, 20.0, 10.0, 5.0, 1.0]
WEIGHT = [0.5, 1.0, 2.0, 0.25, 3.0]


class Kind(NamedTuple):
    """A loss under test."""

    make: Callable[..., LogitLoss]
    shift: bool = True  # a shift of the logits changes nothing
    soft: bool = True  # takes probabilities as targets
    weighted: bool = False  # takes class weights, by which the mean divides
    needs_targets: bool = True
    further: str = ""
    # A gradient through torch's own cross-entropy is NaN where logits of an ignored row are.
    hides_ignored: bool = True
    squares: bool = False  # of the logits, which overflow beyond 1e19


LOSSES: dict[str, Kind] = {
    "balanced_softmax": Kind(
        lambda classes=None, **o: BalancedSoftmax(permuted(COUNTS, classes), **o), weighted=True, hides_ignored=False
    ),
    "confidence_penalty": Kind(lambda **o: ConfidencePenalty(0.3, **o), needs_targets=False),
    "confidence_penalty_hinge": Kind(lambda **o: ConfidencePenalty(0.3, hinge=1.0, **o), needs_targets=False),
    "cross_entropy": Kind(CrossEntropyLoss, weighted=True, hides_ignored=False),
    "distillation": Kind(DistillationLoss, needs_targets=False, further="teacher_logits"),
    "dual_focal": Kind(DualFocalLoss, soft=False, weighted=True),
    "focal": Kind(FocalLoss, weighted=True),
    "focal_half": Kind(lambda **o: FocalLoss(0.5, **o), weighted=True),
    "label_smoothing": Kind(LabelSmoothingCrossEntropy, weighted=True, hides_ignored=False),
    "logit_adjusted": Kind(
        lambda classes=None, **o: LogitAdjustedCrossEntropy(permuted(COUNTS, classes), **o),
        weighted=True,
        hides_ignored=False,
    ),
    "logit_norm": Kind(LogitNormLoss, shift=False, hides_ignored=False),
    "logit_penalty": Kind(lambda **o: LogitPenalty(0.3, **o), shift=False, needs_targets=False, squares=True),
    "logit_squashing": Kind(
        lambda **o: LogitSquashing(CrossEntropyLoss(**o), cap=2.0), shift=False, weighted=True, hides_ignored=False
    ),
    "margin_label_smoothing": Kind(lambda **o: MarginLabelSmoothing(margin=1.0, **o), weighted=True),
    "max_logit_penalty": Kind(lambda **o: MaxLogitPenalty(0.3, **o), shift=False, needs_targets=False, squares=True),
    "poly": Kind(PolyLoss, weighted=True),
    "scheduled_focal": Kind(ScheduledFocalLoss, weighted=True),
    "unlikelihood": Kind(UnlikelihoodLoss, needs_targets=False, further="negatives"),
    "z_loss": Kind(lambda **o: ZLoss(0.3, **o), shift=False, needs_targets=False, squares=True),
}

every = pytest.mark.parametrize("kind", LOSSES.values(), ids=LOSSES.keys())


def permuted(values: list[float], classes: Tensor | None) -> list[float]:
    return values if classes is None else [values[k] for k in classes.tolist()]


class Batch(NamedTuple):
    """Logits, targets of which the second row is ignored, and what else a loss takes."""

    logits: Tensor
    targets: Tensor
    further: dict[str, Tensor]


def batch(kind: Kind, *shape: int, seed: int = 0, soft: bool = False, dtype: torch.dtype = torch.float64) -> Batch:
    shape = shape or (6, CLASSES)
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    leading = shape[:1] + shape[2:]
    if soft:
        targets = torch.randn(shape, generator=generator, dtype=torch.float64).softmax(1)
    else:
        targets = torch.randint(0, shape[1], leading, generator=generator)
        targets[1:2] = IGNORED
    further = {}
    if kind.further == "teacher_logits":
        further["teacher_logits"] = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    if kind.further == "negatives":
        further["negatives"] = torch.randint(0, shape[1], leading, generator=generator)
    return Batch(logits.to(dtype), targets, further)


def run(loss: LogitLoss, given: Batch) -> tuple[Tensor, Tensor]:
    """Value and gradient of its sum."""
    z = given.logits.detach().clone().requires_grad_()
    value = loss(z, given.targets, **given.further)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient


def options(kind: Kind, **others: Any) -> dict[str, Any]:
    return {"weight": WEIGHT, **others} if kind.weighted else others


@every
@pytest.mark.parametrize("soft", [False, True])
def test_the_reductions_are_of_the_same_rows(kind: Kind, soft: bool) -> None:
    if soft and not kind.soft:
        pytest.skip("takes class indices only")
    given = batch(kind, soft=soft)
    rows, _ = run(kind.make(**options(kind, reduction="none")), given)
    total, _ = run(kind.make(**options(kind, reduction="sum")), given)
    mean, _ = run(kind.make(**options(kind)), given)
    assert rows.shape == given.logits.shape[:1]
    torch.testing.assert_close(total, rows.sum())
    if soft:
        weights = torch.ones(6)
    else:
        counted = given.targets != IGNORED
        assert rows[~counted].tolist() == [0.0]
        weights = torch.tensor(WEIGHT if kind.weighted else [1.0] * CLASSES)[given.targets[counted]]
    torch.testing.assert_close(mean, total / weights.sum().double())


@every
def test_an_ignored_row_neither_counts_nor_gets_a_gradient(kind: Kind) -> None:
    given = batch(kind)
    kept = given.targets != IGNORED
    value, gradient = run(kind.make(**options(kind)), given)
    shorter = Batch(given.logits[kept], given.targets[kept], {k: v[kept] for k, v in given.further.items()})
    expected, expected_gradient = run(kind.make(**options(kind)), shorter)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[kept], expected_gradient)
    assert (gradient[~kept] == 0).all()


@every
@pytest.mark.parametrize("filling", [torch.nan, torch.inf, ABSENT, 1e30])
def test_whatever_an_ignored_row_holds_goes_nowhere(kind: Kind, filling: float) -> None:
    given = batch(kind)
    value, gradient = run(kind.make(), given)
    given.logits[1] = filling
    spoiled, spoiled_gradient = run(kind.make(), given)
    assert torch.equal(value, spoiled)
    if kind.hides_ignored:
        assert torch.equal(gradient, spoiled_gradient)


@every
@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_counted_row_is_zero_with_zero_gradient(kind: Kind, rows: int, reduction: str) -> None:
    full = batch(kind, 3, CLASSES)
    given = Batch(
        full.logits[:rows], torch.full((rows,), IGNORED), {name: x[:rows] for name, x in full.further.items()}
    )
    value, gradient = run(kind.make(**options(kind, reduction=reduction)), given)
    assert (value == 0).all()
    assert (gradient == 0).all()


@every
@pytest.mark.parametrize("soft", [False, True])
def test_renaming_the_classes_changes_nothing(kind: Kind, soft: bool) -> None:
    if soft and not kind.soft:
        pytest.skip("takes class indices only")
    given = batch(kind, soft=soft)
    order = torch.tensor([3, 0, 4, 1, 2])
    place = order.argsort()
    targets = (
        given.targets[:, order] if soft else torch.where(given.targets < 0, IGNORED, place[given.targets.clamp(min=0)])
    )
    further = {name: place[x] if name == "negatives" else x[:, order] for name, x in given.further.items()}
    renamed = Batch(given.logits[:, order], targets, further)
    weight = {"weight": permuted(WEIGHT, order)} if kind.weighted else {}
    counts = {"classes": order} if kind in (LOSSES["balanced_softmax"], LOSSES["logit_adjusted"]) else {}
    value, gradient = run(kind.make(**options(kind)), given)
    again, gradient_again = run(kind.make(**weight, **counts), renamed)
    torch.testing.assert_close(again, value)
    torch.testing.assert_close(gradient_again, gradient[:, order])


@every
@pytest.mark.parametrize("shift", [-300.0, 0.5, 4096.0])
def test_a_shift_of_the_logits_changes_nothing_where_that_is_promised(kind: Kind, shift: float) -> None:
    given = batch(kind)
    value, gradient = run(kind.make(), given)
    shifted, shifted_gradient = run(kind.make(), given._replace(logits=given.logits + shift))
    # float64 logits near 4096 are rounded by 4.5e-13
    same = torch.allclose(shifted, value, rtol=1e-10, atol=1e-11)
    assert same == kind.shift
    if kind.shift:
        torch.testing.assert_close(shifted_gradient, gradient, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(gradient.sum(1), torch.zeros_like(value).expand(6), rtol=0, atol=1e-12)


@every
def test_the_class_axis_is_where_torch_has_it(kind: Kind) -> None:
    given = batch(kind, 2, CLASSES, 3, 4)
    value, gradient = run(kind.make(**options(kind)), given)

    def flat(x: Tensor) -> Tensor:
        return x.movedim(1, -1).reshape(-1, CLASSES) if x.ndim == 4 else x.reshape(-1)

    rows = Batch(flat(given.logits), flat(given.targets), {k: flat(x) for k, x in given.further.items()})
    expected, expected_gradient = run(kind.make(**options(kind)), rows)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(flat(gradient), expected_gradient)
    none = kind.make(reduction="none")(given.logits, given.targets, **given.further)
    assert none.shape == (2, 3, 4)
    one = Batch(
        given.logits[0, :, 0, 0], given.targets[0, 0, 0], {k: x[0, ..., 0, 0] for k, x in given.further.items()}
    )
    assert kind.make(reduction="none")(one.logits, one.targets, **one.further).item() == pytest.approx(none[0, 0, 0])


@every
def test_an_absent_class_is_as_if_it_were_not_there(kind: Kind) -> None:
    given = batch(kind)
    targets = torch.tensor([0, IGNORED, 1, 3, 0, 3])
    further = dict(given.further)
    if "negatives" in further:
        further["negatives"] = torch.tensor([1, 1, 0, 1, 3, 0])
    logits = given.logits.clone()
    logits[:, 2] = ABSENT
    value, gradient = run(kind.make(**options(kind)), Batch(logits, targets, masked(further)))
    present = torch.tensor([0, 1, 3, 4])
    place = torch.tensor([0, 1, -1, 2, 3])
    fewer = Batch(
        given.logits[:, present],
        torch.where(targets < 0, IGNORED, place[targets.clamp(min=0)]),
        {k: place[x] if k == "negatives" else x[:, present] for k, x in further.items()},
    )
    weight = {"weight": permuted(WEIGHT, present)} if kind.weighted else {}
    counts = {"classes": present} if kind in (LOSSES["balanced_softmax"], LOSSES["logit_adjusted"]) else {}
    expected, expected_gradient = run(kind.make(**weight, **counts), fewer)
    # priors are kept in float32
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient[:, present], expected_gradient, rtol=1e-6, atol=1e-6)
    assert (gradient[:, 2] == 0).all()


def masked(further: dict[str, Tensor]) -> dict[str, Tensor]:
    """The teacher lacks the class too."""
    if "teacher_logits" not in further:
        return further
    teacher = further["teacher_logits"].clone()
    teacher[:, 2] = ABSENT
    return {"teacher_logits": teacher}


@every
def test_one_present_class_has_a_finite_gradient(kind: Kind) -> None:
    given = batch(kind, dtype=torch.float32)
    further = dict(given.further)
    if "negatives" in further:
        further["negatives"] = torch.full((6,), 1)  # absent, and so certain not to be predicted
    logits = torch.full((6, CLASSES), ABSENT)
    logits[:, 0] = 3.0
    if "teacher_logits" in further:
        further["teacher_logits"] = logits.clone()
    value, gradient = run(kind.make(), Batch(logits, torch.zeros(6, dtype=torch.long), further))
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@every
@pytest.mark.parametrize("row", [[1e30, -1e30, 1e30, 0.0, -1e30], [1e4, -1e4, 0.0, 3.0, ABSENT], [0.0] * CLASSES])
@pytest.mark.parametrize("target", [0, 1, 3])
def test_extreme_logits_have_finite_values_and_gradients(kind: Kind, row: list[float], target: int) -> None:
    if kind.squares:
        row = [z / 1e12 if abs(z) > 1e18 else z for z in row]
    given = batch(kind, 1, CLASSES, dtype=torch.float32)
    targets = torch.tensor([target])
    further = {"negatives": torch.tensor([2])} if kind.further == "negatives" else given.further
    if kind.further == "teacher_logits":
        further = {"teacher_logits": given.further["teacher_logits"].masked_fill(torch.tensor(row) == ABSENT, ABSENT)}
    value, gradient = run(kind.make(), Batch(torch.tensor([row]), targets, further))
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_lifted(kind: Kind, dtype: torch.dtype) -> None:
    given = batch(kind, dtype=dtype)
    value, gradient = run(kind.make(**options(kind)), given)
    lifted, lifted_gradient = run(kind.make(**options(kind)), given._replace(logits=given.logits.float()))
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, lifted)
    torch.testing.assert_close(gradient, lifted_gradient.to(dtype))


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_of_128k_classes_lose_nothing(kind: Kind, dtype: torch.dtype) -> None:
    if kind in (LOSSES["balanced_softmax"], LOSSES["logit_adjusted"]):
        pytest.skip("has five classes")
    given = batch(kind, 4, 131_072, dtype=dtype)
    value, gradient = run(kind.make(), given)
    wide = {k: x.double() if x.is_floating_point() else x for k, x in given.further.items()}
    exact, exact_gradient = run(kind.make(), Batch(given.logits.double(), given.targets, wide))
    # sums of 131 072 float32 numbers
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    # one rounding to the type of the logits, whose smallest number may be larger than a gradient
    rounding = torch.finfo(dtype)
    tiny = rounding.smallest_normal * rounding.eps
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1.5 * rounding.eps, atol=max(tiny, 1e-9))


@every
def test_autocast_changes_no_number(kind: Kind) -> None:
    given = batch(kind, dtype=torch.float32)
    expected = run(kind.make(**options(kind)), given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(kind.make(**options(kind)), given)[0], expected[0])


@every
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_are_those_of_finite_differences(kind: Kind, soft: bool) -> None:
    if soft and not kind.soft:
        pytest.skip("takes class indices only")
    given = batch(kind, 3, CLASSES, 2, soft=soft)
    for reduction in ("mean", "none"):
        loss = kind.make(**options(kind, reduction=reduction))
        assert torch.autograd.gradcheck(
            lambda z, loss=loss: loss(z, given.targets, **given.further), given.logits.clone().requires_grad_()
        )


@every
def test_a_soft_target_of_one_is_an_index(kind: Kind) -> None:
    if not kind.soft or not kind.needs_targets:
        pytest.skip("has no soft targets")
    given = batch(kind)
    targets = given.targets.clamp(min=0)
    hard = kind.make(**options(kind, reduction="sum"))(given.logits, targets)
    one_hot = torch.nn.functional.one_hot(targets, CLASSES).double()
    torch.testing.assert_close(kind.make(**options(kind, reduction="sum"))(given.logits, one_hot), hard)


@every
def test_a_soft_target_of_zero_on_an_absent_class_adds_nothing(kind: Kind) -> None:
    if not kind.soft or kind.further:
        pytest.skip("has no soft targets")
    logits = torch.tensor([[0.0, 1.0, 0.5, -1.0, ABSENT]])
    soft = torch.tensor([[0.5, 0.5, 0.0, 0.0, 0.0]])
    value, gradient = run(kind.make(), Batch(logits, soft, {}))
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient[0, 4] == 0


@every
def test_it_adds_and_scales(kind: Kind) -> None:
    given = batch(kind)
    loss = 2 * kind.make(**options(kind)) + ZLoss(0.1)
    value, gradient = run(loss, given)
    alone, alone_gradient = run(kind.make(**options(kind)), given)
    other, other_gradient = run(ZLoss(0.1), given._replace(further={}))
    torch.testing.assert_close(value, 2 * alone + other)
    torch.testing.assert_close(gradient, 2 * alone_gradient + other_gradient)


@every
def test_it_lends_its_value_by_name_without_a_graph(kind: Kind) -> None:
    given = batch(kind)
    loss = kind.make(**options(kind))
    loss.lent = {}
    value = loss(given.logits.requires_grad_(), given.targets, **given.further)
    lent, loss.lent = loss.lent, None
    (term,) = lent["terms"].values()
    assert term == value
    assert not any(x.requires_grad for part in lent.values() for x in part.values())
    if kind.make is not LOSSES["logit_squashing"].make:
        assert list(lent["terms"]) == [loss.term_name]
    assert torch.equal(loss(given.logits, given.targets, **given.further), value)


@every
def test_copies_pickles_and_states_are_the_same_loss_and_lend_nothing(kind: Kind) -> None:
    given = batch(kind)
    loss = kind.make(**options(kind)) + ZLoss()
    loss.lent = {}
    expected = run(loss, given)[0]
    stored = io.BytesIO()
    torch.save(loss.state_dict(), stored)
    stored.seek(0)
    fresh = kind.make(**(options(kind) and {"weight": [1.0] * CLASSES} if kind.weighted else {})) + ZLoss()
    fresh.load_state_dict(torch.load(stored, weights_only=True))
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), fresh):
        assert other.lent is None
        assert torch.equal(run(other, given)[0], expected)


@every
def test_compiled_it_has_one_graph_and_the_same_numbers(kind: Kind) -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    given = batch(kind, dtype=torch.float32)
    loss = kind.make(**options(kind))
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    expected = run(loss, given)
    z = given.logits.clone().requires_grad_()
    value = compiled(z, given.targets, **given.further)
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(torch.autograd.grad(value, z)[0], expected[1])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@every
def test_the_gradient_of_its_terms_is_what_autograd_sends_back(kind: Kind) -> None:
    given = batch(kind)
    loss = kind.make(**options(kind)) + 3 * ZLoss(0.1)
    _, gradient = run(loss, given)
    parts = logit_gradients(loss, given.logits, given.targets, **given.further)
    assert list(parts) == [*loss.term_names()]
    torch.testing.assert_close(sum(parts.values()), gradient)


@every
def test_arguments_that_make_no_sense_are_refused_when_it_is_made(kind: Kind) -> None:
    with pytest.raises(ValueError, match="reduction must be one of mean, none, sum, got 'avg'"):
        kind.make(reduction="avg")


@every
def test_inputs_that_make_no_sense_are_refused_when_it_is_called(kind: Kind) -> None:
    loss, given = kind.make(), batch(kind)
    with pytest.raises(TypeError, match=r"logits must be floating point, got torch\.int64"):
        loss(given.logits.long(), given.targets, **given.further)
    with pytest.raises(ValueError, match="targets must be class indices of shape"):
        loss(given.logits, given.targets[:2], **given.further)
    with pytest.raises(ValueError, match=r"targets must be in \[0, 5\)"):
        loss(given.logits, given.targets + 5, **given.further)
    if kind.needs_targets:
        with pytest.raises(TypeError, match="needs targets, got None"):
            loss(given.logits)
    if kind.further:
        with pytest.raises(TypeError, match=f"needs {kind.further}=..., got None"):
            loss(given.logits, given.targets)
    if kind.weighted:
        with pytest.raises(ValueError, match=r"each of 5 classes, got shape \(2,\)"):
            kind.make(weight=[1.0, 2.0])(given.logits, given.targets)


IN_YAML = """
class_path: logitwatch.losses.LossSum
init_args:
  terms:
    - {class_path: logitwatch.losses.BalancedSoftmax, init_args: {class_counts: [3, 1], weight: [1, 2]}}
    - {class_path: logitwatch.losses.BinaryCrossEntropyWithLogits, init_args: {pos_weight: [1, 2], gamma: 1}}
    - {class_path: logitwatch.losses.ConfidencePenalty, init_args: {weight: 0.1, hinge: 0.5, reduction: sum}}
    - {class_path: logitwatch.losses.CrossEntropyLoss, init_args: {weight: [1, 2], label_smoothing: 0.1}}
    - {class_path: logitwatch.losses.DistillationLoss, init_args: {temperature: 2}}
    - {class_path: logitwatch.losses.DualFocalLoss, init_args: {gamma: 1, weight: [1, 2]}}
    - {class_path: logitwatch.losses.FocalLoss, init_args: {gamma: 0.5, weight: null}}
    - {class_path: logitwatch.losses.LabelSmoothingCrossEntropy, init_args: {smoothing: 0.2}}
    - {class_path: logitwatch.losses.LogitAdjustedCrossEntropy, init_args: {class_counts: [3, 1], tau: 2}}
    - {class_path: logitwatch.losses.LogitNormLoss, init_args: {temperature: 0.1}}
    - {class_path: logitwatch.losses.LogitPenalty, init_args: {weight: 0.1}}
    - class_path: logitwatch.losses.LogitSquashing
      init_args:
        loss: {class_path: logitwatch.losses.CrossEntropyLoss}
        cap: 20
    - {class_path: logitwatch.losses.MarginLabelSmoothing, init_args: {margin: 5, alpha: 0.2}}
    - {class_path: logitwatch.losses.MaxLogitPenalty}
    - {class_path: logitwatch.losses.PolyLoss, init_args: {epsilon: -1}}
    - {class_path: logitwatch.losses.ScheduledFocalLoss, init_args: {gammas: [5, 3, 1], bounds: [0.2, 0.5]}}
    - {class_path: logitwatch.losses.UnlikelihoodLoss, init_args: {weight: [1, 2]}}
    - {class_path: logitwatch.losses.ZLoss, init_args: {weight: 0.01}}
"""


def test_a_yaml_file_says_each_of_them_with_its_options() -> None:
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LogitLoss, "criterion")
    parsed = parser.parse_object({"criterion": yaml.safe_load(IN_YAML)})
    make = getattr(parser, "instantiate", None) or parser.instantiate_classes  # the name before jsonargparse 4.49
    loss = make(parsed).criterion
    assert isinstance(loss, LossSum)
    made = {type(term) for term in loss.terms}
    assert made == {type(kind.make()) for kind in LOSSES.values()} | {BinaryCrossEntropyWithLogits}
    by_name = dict(zip(loss.term_names(), loss.terms, strict=True))
    assert by_name["focal"].gamma == 0.5
    assert by_name["scheduled_focal"].gammas == (5.0, 3.0, 1.0)
    assert by_name["logit_squashing"].cap == 20
    assert by_name["logit_adjusted_cross_entropy"].tau == 2


def test_every_loss_is_here() -> None:
    exempt = {LogitLoss, LossSum, BinaryCrossEntropyWithLogits}  # of the last tests/losses/test_binary.py tells
    public = {getattr(facade, name) for name in facade.__all__}
    losses = {x for x in public if isinstance(x, type) and issubclass(x, LogitLoss)} - exempt
    assert {type(kind.make()) for kind in LOSSES.values()} == losses
