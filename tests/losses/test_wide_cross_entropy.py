import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from logitwatch.losses import wide_cross_entropy as module
from logitwatch.losses.wide_cross_entropy import wide_cross_entropy

ABSENT = float("-inf")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of seven classes a chunk."""
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 14)


def batch(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Classes last; the second target ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, generator=generator, dtype=dtype)
    targets = torch.randint(0, shape[-1], shape[:-1], generator=generator)
    targets.view(-1)[1] = -100
    return logits, targets


def plain(logits: Tensor, targets: Tensor, **options: object) -> Tensor:
    return F.cross_entropy(logits.movedim(-1, 1), targets, **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (2, 2, 3, 7)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"weight": torch.arange(7.0).double()}])
def test_any_number_of_chunks_gives_the_plain_loss(
    shape: tuple[int, ...], reduction: str, options: dict[str, object]
) -> None:
    logits, targets = batch(*shape)
    factor = (
        torch.linspace(-1, 1, targets.numel()).double().view(targets.shape)
        if reduction == "none"
        else torch.tensor(0.3).double()
    )
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value, _ = wide_cross_entropy(ours, targets, reduction=reduction, **options)  # type: ignore[arg-type]
    expected = plain(theirs, targets, reduction=reduction, **options)
    torch.testing.assert_close(value, expected)
    (value * factor).sum().backward()
    (expected * factor).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradients_are_those_of_finite_differences(reduction: str, smoothing: float) -> None:
    logits, targets = batch(5, 7)
    assert torch.autograd.gradcheck(
        lambda z: wide_cross_entropy(z, targets, reduction=reduction, label_smoothing=smoothing)[0],
        logits.requires_grad_(),
    )


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.floats(0, 1))
def test_chunking_changes_no_number(seed: int, chunk: int, smoothing: float) -> None:
    logits, targets = batch(6, 5, seed=seed)
    whole = wide_cross_entropy(logits, targets, label_smoothing=smoothing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_ELEMENTS", chunk)
        parts = wide_cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(whole, parts, equal_nan=True)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("view", ["padded", "shifted", "transposed", "strided", "expanded"])
def test_strides_change_no_number(view: str) -> None:
    base, _ = batch(4, 5, 9)
    views = {
        "padded": lambda z: z[..., :7],
        "shifted": lambda z: z[:, :-1],
        "transposed": lambda z: z.transpose(0, 1),
        "strided": lambda z: z[:, ::2, ::2],
        "expanded": lambda z: z[:1].expand(3, -1, -1),
    }
    ours, theirs = base.clone().requires_grad_(), base.clone().requires_grad_()
    logits = views[view](ours)
    targets = torch.randint(0, logits.shape[-1], logits.shape[:-1], generator=torch.Generator().manual_seed(1))
    value, rows = wide_cross_entropy(logits, targets, label_smoothing=0.1)
    expected = plain(views[view](theirs), targets, label_smoothing=0.1)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(rows["max_logit"], logits.detach().amax(-1).flatten().float())
    torch.autograd.backward([value, expected])
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_second_backward_through_a_retained_graph_gives_the_same(scale: float) -> None:
    logits, targets = batch(3, 7, dtype=torch.float32)
    logits.requires_grad_()
    value = scale * wide_cross_entropy(logits, targets)[0]
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(3 * value, logits, retain_graph=True)
    value.backward()
    assert torch.equal(first, kept)
    torch.testing.assert_close(second, 3 * kept)
    torch.testing.assert_close(logits.grad, kept)


def test_gradients_accumulate_over_two_losses_of_the_same_logits() -> None:
    logits, targets = batch(3, 7)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    for z, loss in (
        (ours, lambda x, **k: wide_cross_entropy(x, targets, **k)[0]),
        (theirs, lambda x, **k: plain(x, targets, **k)),
    ):
        hidden = 2 * z
        (loss(hidden) + loss(hidden, label_smoothing=0.5) + hidden.square().sum()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_second_derivative_is_an_error_that_says_what_to_do() -> None:
    logits, targets = batch(3, 7)
    value, _ = wide_cross_entropy(logits.requires_grad_(), targets)
    with pytest.raises(RuntimeError, match=r"no second derivative .* use torch.nn.functional.cross_entropy"):
        torch.autograd.grad(value, logits, create_graph=True)


def test_without_a_gradient_nothing_the_size_of_the_logits_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 4_000)
    logits, targets = batch(64, 1_000)
    with torch.profiler.profile(profile_memory=True) as profile:
        wide_cross_entropy(logits, targets)
    largest = max(event.cpu_memory_usage for event in profile.events())
    # two scratch chunks of 4 000 doubles are 64 kB; the logits have 512 kB
    assert 0 < largest < 100_000


def test_with_a_gradient_one_buffer_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 4_000)
    logits, targets = batch(64, 1_000)
    logits.requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.autograd.grad(wide_cross_entropy(logits, targets)[0], logits)
    large = [event for event in profile.events() if event.name == "aten::empty" and event.cpu_memory_usage >= 512_000]
    assert len(large) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 65536.0])
def test_half_gradients_are_rounded_once_from_float32(dtype: torch.dtype, scale: float) -> None:
    logits, targets = batch(64, 1_000, dtype=torch.float32)
    half = logits.to(dtype).requires_grad_()
    lifted = half.detach().float().requires_grad_()
    value, _ = wide_cross_entropy(half, targets)
    expected = plain(lifted, targets)
    torch.testing.assert_close(value, expected)
    (scale * value).backward()
    (scale * expected).backward()
    assert half.grad is not None
    assert lifted.grad is not None
    # half an ulp of the type, and for bfloat16 half an ulp more from the buffer it waits in; a loss scale must
    # neither overflow nor come too late for what underflows
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    torch.testing.assert_close(half.grad.float(), lifted.grad, rtol=1.1 * eps, atol=tiny)


def test_a_confident_bfloat16_row_keeps_its_gradient_at_the_target() -> None:
    logits = torch.tensor([[8.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    wide_cross_entropy(logits, torch.tensor([0]))[0].backward()
    assert logits.grad is not None
    # p - 1 = -3.35e-4 would round to 0 if p were rounded first; bfloat16 has 8 bits
    torch.testing.assert_close(logits.grad.float(), torch.tensor([[-3.3535e-4, 3.3535e-4]]), rtol=2**-8, atol=0)


@pytest.mark.parametrize("row", [[0.0, ABSENT, 1.0], [1e30, -1e30, 1e30], [5.0, 5.0, 5.0], [1e4, 0.0, ABSENT]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_rows_have_finite_values_and_exact_statistics(row: list[float], smoothing: float) -> None:
    logits = torch.tensor([row], requires_grad=True)
    value, rows = wide_cross_entropy(logits, torch.tensor([0]), label_smoothing=smoothing)
    value.backward()
    exact = logits.detach().double()
    p = exact.softmax(-1)
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    torch.testing.assert_close(rows["entropy"], -torch.xlogy(p, p).sum(-1).float())
    torch.testing.assert_close(rows["log_partition"], exact.logsumexp(-1).float())


def test_a_nan_row_poisons_no_other() -> None:
    logits, targets = batch(3, 7)
    targets[:] = 2
    logits[1, 3] = torch.nan
    logits.requires_grad_()
    value, rows = wide_cross_entropy(logits, targets, reduction="none")
    value.sum().backward()
    assert logits.grad is not None
    for result in (value, logits.grad.sum(-1), *rows.values()):
        assert result.isnan().tolist() == [False, True, False]


def test_autocast_changes_no_number() -> None:
    logits, targets = batch(4, 50, dtype=torch.float32)
    expected = wide_cross_entropy(logits, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = wide_cross_entropy(logits, targets)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def test_no_row_is_zero_with_an_empty_gradient() -> None:
    logits = torch.zeros(0, 7, requires_grad=True)
    value, rows = wide_cross_entropy(logits, torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert logits.grad.shape == (0, 7)
    assert all(row.shape == (0,) for row in rows.values())


def test_nothing_lent_carries_a_graph() -> None:
    logits, targets = batch(3, 7)
    _, rows = wide_cross_entropy(logits.requires_grad_(), targets)
    assert not any(row.requires_grad for row in rows.values())
