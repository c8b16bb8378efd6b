"""Values and gradients against the same loss of all logits in float64."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.memory import Peak
from torch import Tensor, nn

from logitwatch.functional.row_statistics import row_statistics
from logitwatch.losses import linear_pass
from logitwatch.losses.linear_cross_entropy import LinearCrossEntropyLoss, linear_cross_entropy
from logitwatch.losses.soft_cap import soft_cap_saturation

ABSENT = float("-inf")
ROWS, FEATURES, CLASSES = 11, 4, 9
BIASES = ("none", "some", "absent")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows a chunk, two of them in the cache; a product in half precision of two classes."""
    monkeypatch.setattr(linear_pass, "FEWEST_ROWS", 4)
    monkeypatch.setattr(linear_pass, "MOST_ROWS", 4)
    monkeypatch.setattr(linear_pass, "HALF_CLASSES", 2)
    monkeypatch.setattr(linear_pass, "chunk_elements", lambda _: 2 * CLASSES)


def batch(bias: str = "none", seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], Tensor]:
    """Hidden states, head and bias, and targets of which two are ignored; the last two classes may be absent."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(ROWS, FEATURES), (CLASSES, FEATURES), (CLASSES,)]
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    if bias == "absent":
        tensors[2][-2:] = ABSENT
    targets = torch.randint(CLASSES - 2, (ROWS,), generator=generator)
    targets[torch.tensor([1, 6])] = -100
    return [tensor.requires_grad_() for tensor in tensors[: 2 if bias == "none" else 3]], targets


def reference(tensors: list[Tensor], targets: Tensor, options: dict[str, Any]) -> Tensor:
    """The loss of all logits, of the present classes only."""
    hidden, head, *bias = tensors
    z = F.linear(hidden, head, *bias)
    weight = options.get("weight", torch.ones(CLASSES, dtype=z.dtype))
    if bias:
        present = bias[0].detach() > ABSENT
        z, weight = z[:, present], weight[present]
    if cap := options.get("soft_cap"):
        z = cap * torch.tanh(z / cap)
    if temperature := options.get("logit_norm"):
        z = z / (temperature * (z.square().sum(-1, keepdim=True) + 1e-6).sqrt())
    counted = targets != -100
    index = torch.where(counted, targets, 0)
    log_p, smoothing = z.log_softmax(-1), options.get("label_smoothing", 0.0)
    hard = -weight[index] * log_p.gather(1, index.unsqueeze(1)).squeeze(1)
    losses = counted * ((1 - smoothing) * hard - smoothing * (weight * log_p).mean(-1))
    penalty = counted * options.get("z_loss", 0.0) * z.logsumexp(-1).square()
    match options.get("reduction", "mean"):
        case "none":
            return losses + penalty
        case "sum":
            return (losses + penalty).sum()
    return losses.sum() / (counted * weight[index]).sum() + penalty.sum() / counted.sum()


def call(tensors: list[Tensor], targets: Tensor, options: dict[str, Any]) -> Tensor:
    hidden, head, *bias = tensors
    return linear_cross_entropy(hidden, head, targets, linear_bias=bias[0] if bias else None, **options)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("extra", [{}, {"soft_cap": 1.5}, {"logit_norm": 0.5}], ids=["plain", "capped", "normalised"])
def test_values_and_gradients_are_those_of_all_logits(bias: str, reduction: str, extra: dict[str, Any]) -> None:
    weight = torch.rand(CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    for smoothing, z_loss, weighted in itertools.product((0.0, 0.2), (0.0, 0.3), (False, True)):
        options = {"reduction": reduction, "label_smoothing": smoothing, "z_loss": z_loss, **extra}
        options |= {"weight": weight} if weighted else {}
        tensors, targets = batch(bias)
        others, _ = batch(bias)
        value, expected = call(tensors, targets, options), reference(others, targets, options)
        torch.testing.assert_close(value, expected)
        factor = torch.linspace(-1, 1, ROWS).double() if reduction == "none" else torch.tensor(0.7)
        (value * factor).sum().backward()
        (expected * factor).sum().backward()
        for ours, theirs in zip(tensors, others, strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, o=options: f"{o}: {text}")


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("extra", [{}, {"soft_cap": 1.5}, {"logit_norm": 0.5}], ids=["plain", "capped", "normalised"])
def test_gradients_are_those_of_finite_differences(reduction: str, extra: dict[str, Any]) -> None:
    tensors, targets = batch("some")
    options = {"reduction": reduction, "label_smoothing": 0.1, "z_loss": 0.2, **extra}
    assert torch.autograd.gradcheck(lambda *given: call([*given], targets, options), tensors)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_ignored_gives_zero_and_zero_gradient(reduction: str) -> None:
    tensors, targets = batch("some")
    options = {"reduction": reduction, "label_smoothing": 0.1, "z_loss": 0.2}
    value = call(tensors, torch.full_like(targets, -100), options)
    assert not value.any()
    value.sum().backward()
    assert not any(tensor.grad.any() for tensor in tensors if tensor.grad is not None)


def test_no_rows_at_all_are_a_loss_of_zero() -> None:
    head = torch.ones(3, 2, requires_grad=True)
    linear_cross_entropy(torch.zeros(0, 2), head, torch.zeros(0, dtype=torch.int64)).backward()
    assert head.grad is not None
    assert not head.grad.any()


@pytest.mark.parametrize("extra", [{}, {"soft_cap": 1.5}, {"logit_norm": 0.5}], ids=["plain", "capped", "normalised"])
def test_an_ignored_row_gets_no_gradient_whatever_it_holds(extra: dict[str, Any]) -> None:
    (hidden, head), targets = batch()
    with torch.no_grad():
        hidden[1] = torch.inf
    value = linear_cross_entropy(hidden, head, targets, z_loss=0.1, label_smoothing=0.1, **extra)
    assert value.isfinite()
    value.backward()
    assert hidden.grad is not None
    assert not hidden.grad[1].any()


def test_an_impossible_target_is_an_infinite_loss_with_the_gradient_of_torch() -> None:
    tensors, targets = batch("absent")
    others, _ = batch("absent")
    targets[0] = CLASSES - 1
    value, expected = call(tensors, targets, {}), F.cross_entropy(F.linear(*others), targets)
    assert value == expected == torch.inf
    torch.autograd.backward([value, expected])
    for ours, theirs in zip(tensors, others, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(("dtype", "offset"), [(torch.float32, 0.0), (torch.float32, 1e4), (torch.bfloat16, 0.0)])
def test_a_confident_row_keeps_its_small_gradient(dtype: torch.dtype, offset: float) -> None:
    hidden = torch.tensor([[1.0, offset]], dtype=dtype, requires_grad=True)
    head = torch.tensor([[8.0, 1.0], [0.0, 1.0]], dtype=dtype, requires_grad=True)
    linear_cross_entropy(hidden, head, torch.tensor([0])).backward()
    assert head.grad is not None
    assert hidden.grad is not None
    # 1 - p is 3.4e-4, which bfloat16 cannot tell from 0 beside 1, and float32 to 4 digits
    expected = -torch.sigmoid(torch.tensor(-8.0)).item()
    assert head.grad[0, 0].item() == pytest.approx(expected, rel=5e-3)
    assert hidden.grad[0, 0].item() == pytest.approx(8 * expected, rel=5e-3)


@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (2, 0, 3)])
def test_any_leading_shape_is_a_number_of_rows(leading: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(*leading, 4, generator=generator), torch.randn(9, 4, generator=generator)
    targets = torch.randint(9, leading, generator=generator)
    losses = linear_cross_entropy(hidden, head, targets, reduction="none")
    expected = F.cross_entropy((hidden @ head.T).reshape(-1, 9), targets.reshape(-1), reduction="none")
    torch.testing.assert_close(losses, expected.view(leading))


def test_only_the_gradients_that_are_wanted_are_made() -> None:
    tensors, targets = batch("some")
    for wanted in range(3):
        given = [tensor.detach().requires_grad_(i == wanted) for i, tensor in enumerate(tensors)]
        call(given, targets, {}).backward()
        expected = torch.autograd.grad(reference(tensors, targets, {}), tensors[wanted])
        torch.testing.assert_close(given[wanted].grad, expected[0])
    with torch.no_grad():
        assert not call(tensors, targets, {}).requires_grad


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_backward_through_a_retained_graph_gives_the_same(reduction: str) -> None:
    tensors, targets = batch("some")
    value = call(tensors, targets, {"reduction": reduction, "z_loss": 0.1}).sum()
    first = torch.autograd.grad(value, tensors, retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()  # as an optimizer may
    third = torch.autograd.grad(3 * value, tensors, retain_graph=True)
    torch.testing.assert_close(third, tuple(3 * gradient for gradient in kept))
    value.backward()
    torch.testing.assert_close([tensor.grad for tensor in tensors], kept)
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()


def test_a_second_derivative_is_refused_with_a_reason() -> None:
    tensors, targets = batch()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(call(tensors, targets, {}), tensors, create_graph=True)


def test_bfloat16_is_accumulated_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(2048, 64, generator=generator), 0.3 * torch.randn(8192, 64, generator=generator)
    targets = torch.randint(8192, (2048,), generator=generator)
    ours = [hidden.bfloat16().requires_grad_(), head.bfloat16().requires_grad_()]
    exact = [tensor.detach().double().requires_grad_() for tensor in ours]
    value = linear_cross_entropy(*ours, targets)
    expected = F.cross_entropy(exact[0] @ exact[1].T, targets)
    assert value.dtype == torch.float32
    # the logits are rounded to 8 bits, 0.4 %, at random; torch's chunked way is off by 5 %
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0.0)
    torch.autograd.backward([value, expected])
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert mine.grad.dtype == torch.bfloat16
        error = (mine.grad.double() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 4e-3  # one rounding to 8 bits is 1.7e-3, there are the logits, the products and the result


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_keep_their_precision_at_128k_classes(dtype: torch.dtype) -> None:
    classes, rows = 128_256, 6
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(rows, 16, generator=generator), torch.randn(classes, 16, generator=generator)
    targets = torch.randint(classes, (rows,), generator=generator)
    ours = [hidden.to(dtype).requires_grad_(), head.to(dtype).requires_grad_()]
    exact = [tensor.detach().double().requires_grad_() for tensor in ours]
    value, expected = linear_cross_entropy(*ours, targets), F.cross_entropy(exact[0] @ exact[1].T, targets)
    torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=0.0)
    scale = 65536.0  # as a GradScaler does
    torch.autograd.backward([scale * value, scale * expected])
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        error = (mine.grad.double() - theirs.grad).norm() / theirs.grad.norm()
        # logits of 16 are rounded to 8 bits, by 0.03, and their exponentials by as much
        assert error < (5e-4 if dtype == torch.float16 else 1e-2)


def test_autocast_lowers_the_products_and_no_parameter() -> None:
    (hidden, head), targets = batch(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = linear_cross_entropy(hidden, head, targets)
    value.backward()
    assert value.dtype == torch.float32
    assert head.grad is not None
    assert head.grad.dtype == torch.float32
    expected = torch.autograd.grad(reference([hidden, head], targets, {}), head)[0]
    torch.testing.assert_close(head.grad, expected, rtol=0.05, atol=5e-3)  # 8 bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("extra", [{}, {"soft_cap": 5.0}, {"logit_norm": 0.1}], ids=["plain", "capped", "normalised"])
def test_nothing_is_as_large_as_all_the_logits(
    dtype: torch.dtype, extra: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, features, classes = 192, 4, 2000
    monkeypatch.setattr(linear_pass, "MOST_ROWS", 32)
    monkeypatch.setattr(linear_pass, "FEWEST_ROWS", 32)
    monkeypatch.setattr(linear_pass, "chunk_elements", lambda _: 3 * classes)
    hidden = torch.ones(rows, features, dtype=dtype, requires_grad=True)
    loss = LinearCrossEntropyLoss(features, classes, z_loss=1e-4, label_smoothing=0.1, dtype=dtype, **extra)
    loss.lent = {}
    with Peak(hidden, *loss.parameters()) as peak:
        loss(hidden, torch.zeros(rows, dtype=torch.int64)).backward()
    # 32 rows of logits, and a few float32 blocks of 3 rows on which the softmax is taken
    assert 32 * classes * dtype.itemsize < peak.bytes < rows * classes * dtype.itemsize / 2


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("extra", [{}, {"soft_cap": 1.5}, {"logit_norm": 0.5}], ids=["plain", "capped", "normalised"])
@pytest.mark.parametrize("grad", [True, False])
def test_the_statistics_lent_are_those_of_the_logits(bias: str, extra: dict[str, Any], grad: bool) -> None:
    (hidden, *_), targets = batch(bias, dtype=torch.float32)
    loss = LinearCrossEntropyLoss(FEATURES, CLASSES, bias=bias != "none", z_loss=0.5, **extra)
    if bias == "absent":
        loss.linear.bias.data[-2:] = ABSENT
    loss.lent = {}
    with torch.set_grad_enabled(grad):
        value = loss(hidden, targets)
    z = loss.linear(hidden).detach()
    if "soft_cap" in extra:
        z = (1.5 * torch.tanh(z / 1.5)).masked_fill(z == ABSENT, ABSENT)
    expected, lent = row_statistics(z, targets), loss.lent
    for name in expected._fields:
        torch.testing.assert_close(
            getattr(lent["row_statistics"], name), getattr(expected, name), equal_nan=True, msg=name
        )
    assert lent["rows"]["entropy"] is lent["row_statistics"].entropy
    torch.testing.assert_close(sum(lent["terms"].values()), value.detach())
    assert list(lent["terms"]) == ["cross_entropy", "z_loss"]
    some = torch.tensor([3, 0])
    torch.testing.assert_close(lent["logits_of"](some), z[some])
    assert lent["logits"].shape == z.shape
    assert lent["logits"].is_meta


@pytest.mark.parametrize("bias", BIASES)
def test_the_share_of_logits_that_its_cap_saturates_is_that_of_counted_rows(bias: str) -> None:
    (hidden, *head), targets = batch(bias, dtype=torch.float32)
    loss = LinearCrossEntropyLoss(FEATURES, CLASSES, bias=bias != "none", soft_cap=0.3)
    loss.linear.load_state_dict(dict(zip(("weight", "bias"), head, strict=False)))
    loss.lent = {}
    loss(hidden, targets)
    shares = soft_cap_saturation(loss.linear(hidden).detach(), cap=0.3)
    assert 0 < shares.mean() < 1
    assert shares[1] > 0
    torch.testing.assert_close(loss.lent["numbers"], {"soft_cap_saturation": shares[targets != -100].mean()})
    loss.lent = {}
    loss(hidden, torch.full_like(targets, -100))
    assert loss.lent["numbers"] == {"soft_cap_saturation": 0}


def test_a_loss_that_is_not_asked_lends_nothing() -> None:
    (hidden, _), targets = batch(dtype=torch.float32)
    loss = LinearCrossEntropyLoss(FEATURES, CLASSES)
    loss(hidden, targets).backward()
    assert loss.lent is None


def test_a_weight_tied_to_an_embedding_gets_both_gradients() -> None:
    def gradient(loss_of: Any) -> Tensor:
        embedding = nn.Embedding.from_pretrained(batch()[0][1].detach().clone(), freeze=False)
        tokens = torch.tensor([3, 1, 4, 1, 5])
        loss_of(embedding)(embedding(tokens).tanh(), tokens.roll(-1)).backward()
        assert embedding.weight.grad is not None
        return embedding.weight.grad

    def ours(embedding: nn.Embedding) -> LinearCrossEntropyLoss:
        loss = LinearCrossEntropyLoss(FEATURES, CLASSES, dtype=torch.float64)
        loss.linear.weight = embedding.weight
        return loss

    expected = gradient(lambda embedding: lambda h, y: F.cross_entropy(h @ embedding.weight.T, y))
    torch.testing.assert_close(gradient(ours), expected)


def test_it_takes_over_from_the_loss_of_torch() -> None:
    theirs_of = getattr(nn, "LinearCrossEntropyLoss", None)
    if theirs_of is None:
        pytest.skip("this torch has no linear cross-entropy")
    (hidden, _), targets = batch(dtype=torch.float32)
    weight = torch.arange(1.0, CLASSES + 1)
    theirs = theirs_of(FEATURES, CLASSES, bias=True, weight=weight, label_smoothing=0.1)
    ours = LinearCrossEntropyLoss(FEATURES, CLASSES, bias=True, weight=[0.0] * CLASSES, label_smoothing=0.1)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(hidden, targets), theirs(hidden, targets))


# of what dynamo looks at while it stops
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_code_goes_on_after_the_loss() -> None:
    (hidden, _), targets = batch(dtype=torch.float32)
    loss = LinearCrossEntropyLoss(FEATURES, CLASSES)

    def step(x: Tensor) -> Tensor:
        return 2 * loss(x * 1.5, targets)

    expected = step(hidden)
    torch.testing.assert_close(torch.compile(step, backend="aot_eager")(hidden), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "max"}, "reduction must be one of mean, none, sum, got 'max'"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be in \[0, 1\], got 1.5"),
        ({"z_loss": -1.0}, "z_loss must be >= 0, got -1.0"),
        ({"soft_cap": 0.0}, "soft_cap must be > 0, got 0.0"),
        ({"logit_norm": float("nan")}, "logit_norm must be > 0, got nan"),
        ({"soft_cap": 1.0, "logit_norm": 1.0}, "cannot both be given"),
        ({"weight": [1.0]}, "weight must have one entry for each of 9 classes"),
        ({"num_classes": 0}, "num_classes must be >= 1, got 0"),
    ],
)
def test_bad_options_are_refused_when_it_is_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearCrossEntropyLoss(**{"in_features": FEATURES, "num_classes": CLASSES, **options})


def test_it_says_what_it_is() -> None:
    assert "soft_cap=30.0" in repr(LinearCrossEntropyLoss(2, 3, soft_cap=30.0))
