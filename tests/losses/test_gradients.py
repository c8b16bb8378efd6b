import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from logitwatch.losses import (
    BinaryCrossEntropyWithLogits,
    ConfidencePenalty,
    CrossEntropyLoss,
    DistillationLoss,
    LabelSmoothingCrossEntropy,
    LogitPenalty,
    LogitSquashing,
    UnlikelihoodLoss,
    ZLoss,
    cross_entropy_gradient,
    gradient_accounts,
    logit_gradients,
)

Y = torch.tensor([0, 3, -100, 2, 2, 1])
COUNTED = (Y != -100).double().unsqueeze(1)


def logits(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = shape or (6, 4)
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)


def closed_forms(z: Tensor) -> dict[str, Tensor]:
    """Gradients of the means over the five rows that count, written down by hand."""
    p, one_hot = z.softmax(1), F.one_hot(Y.clamp(min=0), 4).double()
    log_p, lse = z.log_softmax(1), z.logsumexp(1, keepdim=True)
    entropy = -(p * log_p).sum(1, keepdim=True)
    of_rows = {
        "cross_entropy": p - one_hot,
        "label_smoothing_cross_entropy": p - 0.9 * one_hot - 0.1 / 4,
        "z_loss": 2 * lse * p,
        "logit_penalty": 2 * z,
        "confidence_penalty": p * (log_p + entropy),
    }
    return {name: COUNTED * g / 5 for name, g in of_rows.items()}


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_each_term_has_its_closed_form_also_where_no_gradient_is_recorded(context: type[torch.no_grad]) -> None:
    terms = CrossEntropyLoss() + LabelSmoothingCrossEntropy(0.1) + 3 * ZLoss(0.5) + LogitPenalty(2.0)
    loss = terms + ConfidencePenalty(0.7)
    scales = [1.0, 1.0, 1.5, 2.0, 0.7]
    with context():
        z = logits().clone()
        found = logit_gradients(loss, z, Y.clone())
    expected = {k: scale * g for scale, (k, g) in zip(scales, closed_forms(logits()).items(), strict=True)}
    assert list(found) == list(expected)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 4, 3)])
def test_the_reference_is_the_gradient_of_torchs_cross_entropy(shape: tuple[int, ...]) -> None:
    z = logits(*shape).requires_grad_()
    y = Y.view(2, 3) if len(shape) == 3 else Y[: math.prod(shape) // 4].view(shape[:-1])
    (expected,) = torch.autograd.grad(F.cross_entropy(z, y), z)
    found = cross_entropy_gradient(z, y)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    soft = logits(*shape).flip(-1).softmax(0 if len(shape) == 1 else 1)
    (expected,) = torch.autograd.grad(F.cross_entropy(z, soft), z)
    torch.testing.assert_close(cross_entropy_gradient(z, soft), expected)
    (expected,) = torch.autograd.grad(F.cross_entropy(z, 3 * soft), z)
    torch.testing.assert_close(cross_entropy_gradient(z, 3 * soft), expected)


def test_the_reference_of_yes_or_no_logits_is_that_of_binary_cross_entropy() -> None:
    z, y = logits(3, 4).requires_grad_(), (logits(3, 4) > 0).double()
    y[1, 2] = -100
    loss = BinaryCrossEntropyWithLogits()
    (expected,) = torch.autograd.grad(loss(z, y), z)
    torch.testing.assert_close(cross_entropy_gradient(z, y, binary=True), expected)
    account = gradient_accounts(loss + LogitPenalty(0.1), z, y)
    assert account["binary_cross_entropy"].cosine.item() == pytest.approx(1)
    assert abs(account["logit_penalty"].cosine.item()) < 1


def test_where_no_row_counts_there_is_no_gradient_to_compare() -> None:
    account = gradient_accounts(CrossEntropyLoss() + ZLoss(), logits(), torch.full((6,), -100))
    assert account["z_loss"].norm == 0
    assert account["z_loss"].cosine.isnan()


def test_norm_and_cosine_are_those_of_the_closed_forms() -> None:
    z = logits()
    account = gradient_accounts(2 * CrossEntropyLoss() + ZLoss(0.5), z, Y)
    forms = closed_forms(z)
    cosine = F.cosine_similarity(forms["z_loss"].flatten(), forms["cross_entropy"].flatten(), 0)
    torch.testing.assert_close(account["cross_entropy"].norm, 2 * forms["cross_entropy"].norm())
    torch.testing.assert_close(account["cross_entropy"].cosine, torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(account["z_loss"].norm, 0.5 * forms["z_loss"].norm())
    torch.testing.assert_close(account["z_loss"].cosine, cosine)


def test_a_penalty_that_fights_cross_entropy_has_a_negative_cosine() -> None:
    z = torch.tensor([[4.0, 0.0], [3.0, -1.0]])
    account = gradient_accounts(CrossEntropyLoss() + ConfidencePenalty(1.0), z, torch.tensor([0, 0]))
    # Two classes have one direction: against is exactly against.
    assert account["confidence_penalty"].cosine.item() == pytest.approx(-1, abs=1e-6)


def test_tiny_gradients_keep_their_cosine() -> None:
    z = torch.tensor([[4.0, 0.0]])
    account = gradient_accounts(CrossEntropyLoss() + ConfidencePenalty(1e-30), z, torch.tensor([0]))
    assert account["confidence_penalty"].norm > 0
    assert account["confidence_penalty"].cosine.item() == pytest.approx(-1, abs=1e-6)


def test_without_targets_there_is_a_norm_and_no_cosine() -> None:
    z = logits()
    account = gradient_accounts(ZLoss(1.0), z)["z_loss"]
    torch.testing.assert_close(account.norm, (2 * z.logsumexp(1, keepdim=True) * z.softmax(1) / 6).norm())
    assert account.cosine.isnan()


def test_terms_inside_a_soft_cap_are_seen_through_it() -> None:
    z = logits().requires_grad_()
    loss = LogitSquashing(CrossEntropyLoss() + ZLoss(0.5), cap=2.0)
    found = logit_gradients(loss, z, Y)
    capped = 2 * torch.tanh(z / 2)
    expected = {
        k: closed_forms(capped)[k] * s * (1 - (capped / 2) ** 2) for k, s in (("cross_entropy", 1), ("z_loss", 0.5))
    }
    torch.testing.assert_close(found, expected)


def test_further_inputs_go_to_their_terms() -> None:
    z, teacher, negatives = logits(), logits().flip(0), torch.tensor([1, 1, 1, 1, 1, 0])
    loss = CrossEntropyLoss() + DistillationLoss(1.0) + UnlikelihoodLoss()
    found = logit_gradients(loss, z, Y, teacher_logits=teacher, negatives=negatives)
    torch.testing.assert_close(found["distillation"], COUNTED * (z.softmax(1) - teacher.softmax(1)) / 5)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_it_is_the_gradient_of_the_value_that_is_lent(reduction: str) -> None:
    z = logits().requires_grad_()
    found = logit_gradients(CrossEntropyLoss(reduction=reduction), z, Y)["cross_entropy"]
    (expected,) = torch.autograd.grad(CrossEntropyLoss(reduction=reduction)(z, Y).mean(), z)
    torch.testing.assert_close(found, expected)


def test_half_logits_have_gradients_in_float32() -> None:
    z = logits(dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = logit_gradients(CrossEntropyLoss(), z, Y)["cross_entropy"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, closed_forms(z.double())["cross_entropy"].float())


def test_a_run_is_not_touched() -> None:
    seen = []
    loss = LabelSmoothingCrossEntropy() + ZLoss()
    loss.terms[0].register_forward_hook(lambda *_: seen.append("hook"))
    loss.lent = {"terms": "as they were"}

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    leaf = logits().requires_grad_()
    z = 2 * leaf
    before, state = z._version, torch.get_rng_state()
    with Mode():
        seen.clear()
        logit_gradients(loss, z, Y)
        assert seen == []
    assert loss.lent == {"terms": "as they were"}
    alone = ZLoss()
    alone.lent = {}
    logit_gradients(alone, z, Y)
    assert alone.lent == {}
    assert z._version == before
    assert torch.equal(torch.get_rng_state(), state)
    assert leaf.grad is None
    z.sum().backward()


def test_a_term_that_raises_leaves_the_loss_as_it_was() -> None:
    loss = CrossEntropyLoss()
    loss.lent = {}
    with pytest.raises(ValueError, match="targets must be in"):
        logit_gradients(loss, torch.zeros(1, 2), torch.tensor([7]))
    assert loss.lent == {}
