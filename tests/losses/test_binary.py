import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from logitwatch.losses import BinaryCrossEntropyWithLogits, LogitPenalty, LossSum, binary_cross_entropy, logit_gradients

INF = math.inf


def batch(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return z.to(dtype).requires_grad_(), torch.rand(*shape, generator=generator, dtype=torch.float64).round(decimals=1)


@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 4, 3)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_gives_torchs_numbers_and_gradients(shape: tuple[int, ...], reduction: str, weighted: bool) -> None:
    z, y = batch(*shape)
    options, torchs = {}, {}
    if weighted:
        options = {"weight": [0.5, 1.0, 2.0, 3.0], "pos_weight": [4.0, 3.0, 2.0, 1.0]}
        along = (4, 1) if len(shape) == 3 else (4,)
        torchs = {name: torch.tensor(values, dtype=torch.float64).view(along) for name, values in options.items()}
    ours = BinaryCrossEntropyWithLogits(reduction=reduction, **options)(z, y)  # type: ignore[arg-type]
    theirs = F.binary_cross_entropy_with_logits(z, y, reduction=reduction, **torchs)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), z), torch.autograd.grad(theirs.sum(), z))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
def test_focal_and_smoothing_are_the_formula(gamma: float, smoothing: float) -> None:
    z, y = batch(6, 4)
    p, soft = z.sigmoid(), (1 - smoothing) * y + smoothing / 2
    published = -soft * (1 - p) ** gamma * p.log() - (1 - soft) * p**gamma * (1 - p).log()
    ours = binary_cross_entropy(z, y, label_smoothing=smoothing, gamma=gamma)
    torch.testing.assert_close(ours, published, rtol=1e-9, atol=1e-12)
    ours_gradient, theirs = torch.autograd.grad(ours.sum(), z)[0], torch.autograd.grad(published.sum(), z)[0]
    torch.testing.assert_close(ours_gradient, theirs, rtol=1e-8, atol=1e-10)


def test_gradients_are_those_of_finite_differences() -> None:
    z, y = batch(3, 4, 2)
    loss = BinaryCrossEntropyWithLogits([1.0, 2.0, 3.0, 4.0], label_smoothing=0.1, gamma=0.5)
    y[0, 1, 1] = -100
    assert torch.autograd.gradcheck(lambda x: loss(x, y), z)


@pytest.mark.parametrize("filling", [math.nan, INF, -INF, 5.0])
def test_a_label_nobody_knows_neither_counts_nor_gets_a_gradient(filling: float) -> None:
    z = torch.tensor([[0.0, filling], [1.0, 2.0]], requires_grad=True)
    y = torch.tensor([[1, -100], [0, -100]])
    value = BinaryCrossEntropyWithLogits()(z, y)
    torch.testing.assert_close(value, F.binary_cross_entropy_with_logits(z[:, 0], y[:, 0].float()))
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient[:, 1].tolist() == [0.0, 0.0]
    rows = BinaryCrossEntropyWithLogits(reduction="none")(z, y)
    assert rows[:, 1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_counted_label_is_zero_with_zero_gradient(rows: int, reduction: str) -> None:
    z = torch.ones(rows, 3, requires_grad=True)
    value = BinaryCrossEntropyWithLogits(reduction=reduction)(z, torch.full((rows, 3), -100))
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert (value == 0).all()
    assert (gradient == 0).all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_logits_have_finite_values_and_gradients_unless_infinitely_wrong(
    gamma: float, smoothing: float
) -> None:
    options = {"gamma": gamma, "label_smoothing": smoothing}
    z = torch.tensor([1e30, -1e30, 60.0, INF, -INF], requires_grad=True)
    right = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    value = binary_cross_entropy(z, right, **options)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    wrong = binary_cross_entropy(z, 1 - right, **options)
    assert wrong.tolist()[3:] == [INF, INF]
    assert wrong[:3].isfinite().all()
    assert not torch.autograd.grad(wrong.sum(), z)[0].isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_lifted(dtype: torch.dtype) -> None:
    z, y = batch(6, 4, dtype=dtype)
    loss = BinaryCrossEntropyWithLogits(label_smoothing=0.1, gamma=2.0)
    value = loss(z, y)
    assert torch.equal(value, loss(z.float(), y))
    assert value.dtype == torch.float32
    assert torch.autograd.grad(value, z)[0].dtype == dtype


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.uint8, torch.float16])
def test_targets_of_any_type_that_holds_zero_and_one_are_taken(kind: torch.dtype) -> None:
    z, y = batch(6, 4)
    y = y.round()
    torch.testing.assert_close(BinaryCrossEntropyWithLogits()(z, y.to(kind)), BinaryCrossEntropyWithLogits()(z, y))


def test_a_sum_with_it_is_binary_too() -> None:
    z, y = batch(6, 4)
    loss = BinaryCrossEntropyWithLogits() + LogitPenalty(0.1)
    assert isinstance(loss, LossSum)
    assert loss.binary
    assert not LogitPenalty(0.1).binary
    expected = F.binary_cross_entropy_with_logits(z, y) + 0.1 * z.square().sum(1).mean()
    torch.testing.assert_close(loss(z, y), expected)


def test_a_penalty_beside_it_takes_every_row_whatever_the_type_of_the_labels() -> None:
    z, y = batch(6, 4)
    y = y.round()
    y[0] = -100
    for loss in (
        BinaryCrossEntropyWithLogits() + LogitPenalty(0.1),
        LogitPenalty(0.1) + BinaryCrossEntropyWithLogits(),
    ):
        expected = F.binary_cross_entropy_with_logits(z[1:], y[1:]) + 0.1 * z.square().sum(1).mean()
        for targets in (y, y.long()):
            torch.testing.assert_close(loss(z, targets), expected)
            torch.testing.assert_close(logit_gradients(loss, z, targets)["logit_penalty"], 0.2 * z.detach() / 6)


def test_arguments_that_make_no_sense_are_refused() -> None:
    for option, message in [
        ({"gamma": -1.0}, "gamma must be >= 0, got -1.0"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be in \[0, 1\], got 1.5"),
        ({"reduction": "avg"}, "reduction must be one of mean, none, sum, got 'avg'"),
        ({"pos_weight": [-1.0]}, "weight must be >= 0 for each class"),
    ]:
        with pytest.raises(ValueError, match=message):
            BinaryCrossEntropyWithLogits(**option)  # type: ignore[arg-type]


def test_inputs_that_make_no_sense_are_refused() -> None:
    loss, z = BinaryCrossEntropyWithLogits(), torch.zeros(2, 3)
    with pytest.raises(TypeError, match="needs targets, got None"):
        loss(z)
    with pytest.raises(ValueError, match=r"shaped as logits, \(2, 3\), got \(2,\)"):
        loss(z, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"targets must be in \[0, 1\], or ignore_index \(-100\), got 2"):
        loss(z, torch.tensor([[0, 1, 2], [0, 0, 0]]))
    with pytest.raises(ValueError, match="got nan"):
        loss(z, torch.full((2, 3), math.nan))
    with pytest.raises(ValueError, match=r"each of 3 classes, got shape \(2,\)"):
        BinaryCrossEntropyWithLogits([1.0, 2.0])(z, z)
