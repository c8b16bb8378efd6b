import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitwatch.losses import CrossEntropyLoss, softmax_cross_entropy
from logitwatch.losses.cross_entropy import WIDE_CLASSES

ABSENT = float("-inf")
SHAPES = [(5,), (6, 5), (2, 5, 3), (2, 5, 3, 4), (3, WIDE_CLASSES + 3), (WIDE_CLASSES + 3,), (2, WIDE_CLASSES + 3, 2)]


def batch(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits and targets, about a fifth of the latter ignored by -100 but never the first."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, generator=generator, dtype=dtype)
    axis = 0 if len(shape) == 1 else 1
    if shape[axis] > WIDE_CLASSES:  # as a language model has them: classes contiguous
        logits = logits.movedim(axis, -1).contiguous().movedim(-1, axis)
    leading = shape[:axis] + shape[axis + 1 :]
    targets = torch.randint(0, shape[axis], leading, generator=generator)
    ignored = torch.rand(leading, generator=generator) < 0.2
    ignored.view(-1)[0] = False
    return logits, targets.masked_fill(ignored, -100)


def value_and_gradient(loss: object, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    assert callable(loss)
    z = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = loss(z, targets)
    value.sum().backward()
    assert z.grad is not None
    return value.detach(), z.grad


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_indices_give_torchs_numbers_and_gradients(
    shape: tuple[int, ...], reduction: str, smoothing: float, weighted: bool
) -> None:
    logits, targets = batch(shape)
    classes = shape[0] if len(shape) == 1 else shape[1]
    weight = torch.rand(classes, generator=torch.Generator().manual_seed(1)) if weighted else None
    options = {"reduction": reduction, "label_smoothing": smoothing}
    value, gradient = value_and_gradient(CrossEntropyLoss(weight, **options), logits, targets)  # type: ignore[arg-type]
    wide = None if weight is None else weight.double()
    oracle = torch.nn.CrossEntropyLoss(wide, **options)  # type: ignore[arg-type]
    expected, expected_gradient = value_and_gradient(oracle, logits.double(), targets)
    # float32 against float64: a few rounding errors of losses around 10, and of gradients up to 1. Weights with
    # smoothing go to torch, whose softmax over an axis 1 of 16 000 classes is summed in order: 1.3e-5 of itself off.
    torchs_own = classes > WIDE_CLASSES and len(shape) == 3 and weighted and smoothing > 0
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-6, atol=1e-5 if torchs_own else 1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_soft_targets_give_torchs_numbers_and_gradients(
    shape: tuple[int, ...], reduction: str, smoothing: float
) -> None:
    logits, _ = batch(shape, dtype=torch.float64)
    soft = batch(shape, seed=1, dtype=torch.float64)[0].softmax(0 if len(shape) == 1 else 1)
    weight = torch.linspace(0.1, 1.0, shape[0] if len(shape) == 1 else shape[1], dtype=torch.float64)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    ours, theirs = CrossEntropyLoss(weight, **options), torch.nn.CrossEntropyLoss(weight, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(value_and_gradient(ours, logits, soft), value_and_gradient(theirs, logits, soft))


def test_classes_apart_in_memory_take_torchs_way() -> None:
    logits, _ = batch((2, WIDE_CLASSES + 3, 5))
    logits, targets = logits.contiguous(), torch.arange(10).view(2, 5)
    assert torch.equal(CrossEntropyLoss()(logits, targets), F.cross_entropy(logits, targets))


def test_gradients_reach_soft_targets() -> None:
    logits, _ = batch((4, 5), dtype=torch.float64)
    soft = batch((4, 5), seed=1, dtype=torch.float64)[0].softmax(-1).requires_grad_()
    assert torch.autograd.gradcheck(CrossEntropyLoss(label_smoothing=0.1), (logits.requires_grad_(), soft))


@given(st.integers(0, 2**31), st.floats(0, 1), st.integers(2, 6))
def test_the_mean_is_the_weighted_mean_of_rows(seed: int, smoothing: float, classes: int) -> None:
    logits, targets = batch((7, classes), seed=seed, dtype=torch.float64)
    weight = torch.rand(classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    rows = CrossEntropyLoss(weight, reduction="none", label_smoothing=smoothing)(logits, targets)
    mean = CrossEntropyLoss(weight, label_smoothing=smoothing)(logits, targets)
    torch.testing.assert_close(mean, rows.sum() / weight[targets[targets != -100]].sum())


@given(st.integers(0, 2**31), st.floats(-1e3, 1e3))
def test_a_shift_of_the_logits_changes_nothing(seed: int, shift: float) -> None:
    logits, targets = batch((4, 5), seed=seed, dtype=torch.float64)
    loss = CrossEntropyLoss(label_smoothing=0.1)
    # float64 logits near 1e3 are rounded by 1e-13
    torch.testing.assert_close(loss(logits + shift, targets), loss(logits, targets), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("classes", [5, WIDE_CLASSES + 1])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"reduction": "sum"}, {"reduction": "none"}])
@pytest.mark.parametrize("rows", [0, 3])
def test_no_counted_row_is_zero_with_zero_gradient(classes: int, options: dict[str, float], rows: int) -> None:
    logits, targets = batch((3, classes))[0][:rows], torch.full((rows,), -100)
    value, gradient = value_and_gradient(CrossEntropyLoss(**options), logits, targets)  # type: ignore[arg-type]
    assert (value == 0).all()
    assert gradient.shape == logits.shape
    assert (gradient == 0).all()


def test_no_soft_row_is_zero() -> None:
    assert CrossEntropyLoss()(torch.zeros(0, 3), torch.zeros(0, 3)) == 0


def test_rows_of_weight_zero_alone_are_zero() -> None:
    assert CrossEntropyLoss([0.0, 1.0])(torch.zeros(2, 2), torch.tensor([0, 0])) == 0


@pytest.mark.parametrize("classes", [4, WIDE_CLASSES + 1])
def test_smoothing_gives_no_mass_to_absent_classes(classes: int) -> None:
    logits, targets = batch((3, classes), dtype=torch.float64)
    targets = torch.tensor([0, 2, 2])
    masked = logits.clone()
    masked[:, 1] = ABSENT
    kept = torch.arange(classes) != 1
    loss = CrossEntropyLoss(label_smoothing=0.1)
    value, gradient = value_and_gradient(loss, masked, targets)
    expected, expected_gradient = value_and_gradient(loss, logits[:, kept], (targets - 1).clamp(min=0))
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[:, kept], expected_gradient)
    assert (gradient[:, 1] == 0).all()


def test_a_soft_target_of_zero_on_an_absent_class_adds_nothing() -> None:
    value, gradient = value_and_gradient(
        CrossEntropyLoss(), torch.tensor([[0.0, 0.0, ABSENT]]), torch.tensor([[0.5, 0.5, 0.0]])
    )
    assert value.item() == pytest.approx(math.log(2))
    assert gradient.tolist() == [[0.0, 0.0, 0.0]]


def test_an_absent_target_is_infinite() -> None:
    assert CrossEntropyLoss()(torch.tensor([[0.0, ABSENT]]), torch.tensor([1])) == math.inf


@pytest.mark.parametrize("classes", [5, WIDE_CLASSES + 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_computed_in_float32(classes: int, dtype: torch.dtype) -> None:
    logits, targets = batch((6, classes))
    value, gradient = value_and_gradient(CrossEntropyLoss(), logits.to(dtype), targets)
    lifted, lifted_gradient = value_and_gradient(CrossEntropyLoss(), logits.to(dtype).float(), targets)
    assert torch.equal(value, lifted)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, lifted_gradient.to(dtype))


@pytest.mark.parametrize("classes", [5, WIDE_CLASSES + 1])
@pytest.mark.parametrize("scale", [1e4, 1e30])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_logits_have_finite_gradients(classes: int, scale: float, smoothing: float) -> None:
    logits, targets = batch((4, classes))
    value, gradient = value_and_gradient(CrossEntropyLoss(label_smoothing=smoothing), scale * logits, targets)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_any_integer_type_is_an_index(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([4, 0, 1])
    assert torch.equal(CrossEntropyLoss()(logits, targets.to(dtype)), CrossEntropyLoss()(logits, targets))


@pytest.mark.parametrize("classes", [5, WIDE_CLASSES + 1])
def test_the_ignored_index_may_be_a_class(classes: int) -> None:
    logits, _ = batch((3, classes))
    targets = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        CrossEntropyLoss(ignore_index=2)(logits, targets), F.cross_entropy(logits, targets, ignore_index=2)
    )


@pytest.mark.parametrize("classes", [5, WIDE_CLASSES + 1])
def test_bad_input_is_an_error_that_says_what_came(classes: int) -> None:
    loss = CrossEntropyLoss()
    with pytest.raises(ValueError, match=rf"\[0, {classes}\) .* got {classes}"):
        loss(torch.zeros(1, classes), torch.tensor([classes]))
    with pytest.raises(TypeError, match=r"floating point, got torch\.int64"):
        loss(torch.zeros(1, classes, dtype=torch.long), torch.tensor([0]))
    with pytest.raises(TypeError, match="needs targets, got None"):
        loss(torch.zeros(1, classes))


def test_bad_options_are_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="one of mean, none, sum, got 'avg'"):
        CrossEntropyLoss(reduction="avg")
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got -0.1"):
        CrossEntropyLoss(label_smoothing=-0.1)
    with pytest.raises(ValueError, match="one entry for each of 3 classes"):
        CrossEntropyLoss([1.0, 2.0])(torch.zeros(1, 3), torch.tensor([0]))


def test_the_weight_is_a_buffer_as_in_torch() -> None:
    ours, theirs = CrossEntropyLoss([1.0, 2.0]), torch.nn.CrossEntropyLoss(torch.tensor([1.0, 2.0]))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(copied.weight, ours.weight)
    assert not CrossEntropyLoss().state_dict()


def test_a_large_vocabulary_lends_its_rows_in_torchs_order() -> None:
    classes = WIDE_CLASSES + 1
    hidden = torch.randn(2, 3, classes, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 5, -100], [7, classes - 1, 2]])
    loss = CrossEntropyLoss(label_smoothing=0.1)
    loss.lent = {}
    loss(hidden.transpose(1, 2), targets)
    rows, flat = loss.lent["rows"], hidden.view(6, classes).double()
    p = flat.softmax(-1)
    # float32 sums of 16 000 terms near 10
    for name, expected in {
        "max_logit": flat.amax(-1),
        "log_partition": flat.logsumexp(-1),
        "entropy": -torch.xlogy(p, p).sum(-1),
        "nll": F.cross_entropy(flat, targets.flatten(), reduction="none").masked_fill(
            targets.flatten() == -100, math.nan
        ),
    }.items():
        assert rows[name].dtype == torch.float32
        torch.testing.assert_close(rows[name].double(), expected, rtol=1e-6, atol=1e-5, equal_nan=True)


def test_a_compiled_loss_is_one_graph_and_the_same() -> None:
    for options in ({}, {"label_smoothing": 0.1}, {"weight": [1.0, 2.0, 0.5, 1.0, 1.0], "reduction": "sum"}):
        torch.compiler.reset()
        logits, targets = batch((6, 5))
        loss = CrossEntropyLoss(**options)
        compiled = torch.compile(loss, fullgraph=True, backend="eager")
        torch.testing.assert_close(
            value_and_gradient(compiled, logits, targets), value_and_gradient(loss, logits, targets)
        )


@pytest.mark.parametrize("dim", [0, 1, -1, -3])
def test_the_function_takes_the_class_axis(dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64).movedim(-1, dim)
    targets = torch.randint(0, 5, (4, 3), generator=generator)
    weight = torch.rand(5, generator=generator, dtype=torch.float64)
    last = logits.movedim(dim, -1)
    expected = F.cross_entropy(
        last.reshape(12, 5), targets.flatten(), weight, reduction="none", label_smoothing=0.3
    ).view(4, 3)
    actual = softmax_cross_entropy(logits, targets, weight=weight, label_smoothing=0.3, dim=dim)
    torch.testing.assert_close(actual, expected)
    soft = last.softmax(-1).movedim(-1, dim)
    expected = F.cross_entropy(last.reshape(12, 5), last.softmax(-1).reshape(12, 5), weight, reduction="none")
    torch.testing.assert_close(softmax_cross_entropy(logits, soft, weight=weight, dim=dim).flatten(), expected)
