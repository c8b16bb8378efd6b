import pytest
import torch
import torch.nn.functional as F

from logitwatch.states.class_gradient import CELLS, ClassGradient


def batch(rows=50, classes=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, classes, generator=generator), torch.randint(classes, (rows,), generator=generator)


def gradient(z, y):
    """By autograd, float64 ``[rows, classes]``."""
    leaf = z.double().requires_grad_()
    (found,) = torch.autograd.grad(F.cross_entropy(leaf, y, reduction="sum"), leaf)
    return found


def state(z, y, counted=None):
    return ClassGradient.of(z, y, torch.ones(len(z), dtype=torch.bool) if counted is None else counted)


@pytest.mark.parametrize("soft", [False, True], ids=["indices", "probabilities"])
def test_shares_are_those_of_autograd(soft):
    z, y = batch()
    targets = batch(seed=1)[0].double().softmax(-1) if soft else y
    seen, g = state(z.double(), targets), gradient(z, targets)
    whole = g.abs().sum()
    for said, expected in (
        (seen.shares(), g.abs().sum(0)),
        (seen.up_shares(), g.clamp(max=0).abs().sum(0)),
        (seen.down_shares(), g.clamp(min=0).sum(0)),
    ):
        torch.testing.assert_close(said, expected / whole, rtol=1e-12, atol=1e-15)  # float64 sums in another order
    assert seen.shares().sum().item() == pytest.approx(1.0, rel=1e-12)


def test_half_precision_is_lifted():
    z, y = batch()
    half = z.bfloat16()
    assert torch.equal(state(half, y).up, state(half.float(), y).up)


def test_rows_that_do_not_count_and_rows_without_a_number_are_left_out():
    z, y = batch()
    expected = state(z[4:], y[4:])
    z[0, 1], z[1], z[2, 0] = torch.nan, -torch.inf, torch.inf
    y[3] = -100
    seen = state(z, y, y >= 0)
    torch.testing.assert_close(seen.up, expected.up, rtol=1e-14, atol=0)  # one sum with zeros among its terms
    torch.testing.assert_close(seen.down, expected.down, rtol=1e-14, atol=0)


def test_an_absent_class_has_no_share_unless_it_is_the_target():
    z, y = torch.zeros(2, 3), torch.tensor([0, 2])
    z[:, 2] = -torch.inf
    seen = state(z, y)
    assert seen.down[2].item() == 0.0
    assert seen.up.tolist()[:3] == [0.5, 0.0, 1.0]


@pytest.mark.parametrize(
    ("classes", "cells", "last"),
    [(CELLS, CELLS, (CELLS - 1, CELLS - 1)), (CELLS + 1, CELLS // 2 + 1, (CELLS, CELLS)), (12_290, 3073, None)],
    ids=str,
)
def test_of_many_classes_neighbours_share_a_cell(classes, cells, last):
    z, y = torch.randn(3, classes, generator=torch.Generator().manual_seed(0)), torch.tensor([0, classes // 2, 5])
    y[2] = classes - 1
    seen, g = state(z, y), gradient(z, y)
    assert len(seen.shares()) == cells
    assert last in (None, seen.span(cells - 1))
    spans = [seen.span(cell) for cell in range(cells)]
    assert [first for first, _ in spans] == [0, *(end + 1 for _, end in spans[:-1])]
    assert spans[-1][1] == classes - 1
    expected = torch.stack([g.abs().sum(0)[first : end + 1].sum() for first, end in spans]) / g.abs().sum()
    torch.testing.assert_close(seen.shares(), expected, rtol=1e-4, atol=1e-9)  # float32 probabilities


def test_rows_that_are_right_for_sure_have_no_share():
    assert state(torch.tensor([[1e4, 0.0]]), torch.tensor([0])).shares().isnan().all()
