import pytest
import torch
from torch import Tensor

from logitwatch.losses.linear_function import LinearOptions, linear_loss
from logitwatch.losses.logit_maps import LogitNorm, SoftCap


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(6, 3, generator=generator), torch.randn(5, 3, generator=generator)
    return hidden.requires_grad_(), head.requires_grad_(), torch.tensor([0, 1, 2, 3, 4, -100])


def test_options_name_the_map() -> None:
    assert LinearOptions().map() is None
    assert isinstance(LinearOptions(soft_cap=30.0).checked().map(), SoftCap)
    assert isinstance(LinearOptions(logit_norm=0.1).checked().map(), LogitNorm)


def test_to_lend_changes_no_number() -> None:
    hidden, head, targets = batch()
    options = LinearOptions(label_smoothing=0.1, z_loss=0.1)
    lent: dict[str, object] = {}
    asked = linear_loss(hidden, head, targets, None, None, options, lent=lent)
    plain = linear_loss(hidden, head, targets, None, None, options)
    assert {"terms", "rows", "row_statistics", "logits", "logits_of"} == set(lent)
    assert torch.equal(asked, plain)
    for one, other in zip(
        torch.autograd.grad(asked, (hidden, head)), torch.autograd.grad(plain, (hidden, head)), strict=True
    ):
        assert torch.equal(one, other)


def test_the_terms_of_a_loss_that_is_not_reduced_are_means() -> None:
    hidden, head, targets = batch()
    lent: dict[str, dict[str, Tensor]] = {}
    losses = linear_loss(hidden, head, targets, None, None, LinearOptions(reduction="none"), lent=lent)
    torch.testing.assert_close(lent["terms"]["cross_entropy"], losses.detach().mean())


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_a_gradient_that_was_handed_over_is_not_used_again(scale: float) -> None:
    hidden, head, targets = batch()
    value = scale * linear_loss(hidden, head, targets, None, None, LinearOptions())
    value.backward(retain_graph=True)
    assert head.grad is not None
    first = head.grad.clone()
    for count in (2, 3):
        value.backward(retain_graph=True)
        torch.testing.assert_close(head.grad, count * first)
