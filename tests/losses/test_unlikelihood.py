import math

import pytest
import torch
from torch import Tensor

from logitwatch.losses import CrossEntropyLoss, UnlikelihoodLoss, unlikelihood_loss

ABSENT = float("-inf")


def logits(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_published_formula_for_one_class_and_for_many() -> None:
    z = logits(9, 5).requires_grad_()
    p = z.softmax(-1)
    negatives = torch.arange(9) % 5
    published = -torch.log(1 - p.gather(1, negatives[:, None])[:, 0])
    ours = unlikelihood_loss(z, negatives)
    torch.testing.assert_close(ours, published)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), z), torch.autograd.grad(published.sum(), z))
    p = z.softmax(-1)
    mask = (logits(9, 5, seed=1) > 0).double()
    weight = torch.linspace(0.5, 2.0, 5, dtype=torch.float64)
    ours, published = unlikelihood_loss(z, mask, weight=weight), -(mask * weight * torch.log(1 - p)).sum(-1)
    torch.testing.assert_close(ours, published)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), z), torch.autograd.grad(published.sum(), z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_an_unwanted_class_that_is_certain_has_a_finite_loss(dtype: torch.dtype) -> None:
    z = torch.tensor([[50.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    value = unlikelihood_loss(z, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value.sum(), z)
    # log1p(-p) is infinite in float32 from 17 on
    assert value.item() == pytest.approx(50 - math.log(2), rel=1e-6)
    assert gradient.tolist() == [[1.0, -0.5, -0.5]]


def test_where_no_other_class_is_present_it_is_infinite_and_no_gradient_is_nan() -> None:
    z = torch.tensor([[1.0, ABSENT]], requires_grad=True)
    value = unlikelihood_loss(z, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert value.item() == math.inf
    assert not gradient.isnan().any()


def test_the_mean_is_over_rows_that_count_and_a_row_without_a_negative_adds_nothing() -> None:
    z = torch.zeros(4, 2, requires_grad=True)
    targets, negatives = torch.tensor([0, 0, -100, 1]), torch.tensor([1, -100, 1, 1])
    value = UnlikelihoodLoss()(z, targets, negatives=negatives)
    # Of three that count one has a negative: the last has none but its own target.
    assert value.item() == pytest.approx(math.log(2) / 3)
    (gradient,) = torch.autograd.grad(value, z)
    assert (gradient[1:] == 0).all()
    assert UnlikelihoodLoss()(z, negatives=negatives).item() == pytest.approx(3 * math.log(2) / 4)


def test_a_mask_leaves_out_the_target_of_its_row() -> None:
    z = logits(3, 4)
    targets = torch.tensor([0, 2, -100])
    mask = torch.ones(3, 4, dtype=torch.bool)
    others = mask.clone()
    others[0, 0] = others[1, 2] = False
    rows = UnlikelihoodLoss(reduction="none")(z, targets, negatives=mask)
    torch.testing.assert_close(rows[:2], unlikelihood_loss(z, others.double())[:2])
    assert rows[2] == 0
    assert torch.equal(rows, UnlikelihoodLoss(reduction="none")(z, targets, negatives=mask.double()))
    images = UnlikelihoodLoss(reduction="none")(z.T[None], targets[None], negatives=mask.T[None])
    torch.testing.assert_close(images[0], rows)


def test_class_weights_are_of_the_unwanted_class() -> None:
    value = UnlikelihoodLoss([1.0, 5.0])(torch.zeros(2, 2), negatives=torch.tensor([0, 1]))
    assert value.item() == pytest.approx(3 * math.log(2))


def test_it_adds_to_cross_entropy_with_targets_of_its_own() -> None:
    z, targets, negatives = logits(3, 4), torch.tensor([0, 1, 2]), torch.tensor([3, 3, 3])
    total = (CrossEntropyLoss() + 2 * UnlikelihoodLoss())(z, targets, negatives=negatives)
    torch.testing.assert_close(total, CrossEntropyLoss()(z, targets) + 2 * unlikelihood_loss(z, negatives).mean())


def test_negatives_that_do_not_fit_are_refused_by_name() -> None:
    loss, z = UnlikelihoodLoss(), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"negatives must be in \[0, 3\) for 3 classes, .* got 3"):
        loss(z, negatives=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"negatives must be class indices of shape \(2,\) or"):
        loss(z, negatives=torch.tensor([0]))
    with pytest.raises(TypeError, match="negatives of shape"):
        loss(z, negatives=torch.zeros(2))
