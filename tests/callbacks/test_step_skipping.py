import copy

import pytest
import torch

from logitwatch.callbacks.step_skipping import StepSkipper

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
}


def steps(optimizer, weights, gradients, skipper):
    for gradient in gradients:
        for weight in weights:
            weight.grad = torch.full_like(weight, gradient)
        skipper.before(optimizer)
        optimizer.step()
        optimizer.zero_grad()


def same(one, other):
    assert str(one) == str(other)  # tensors print their values; bit for bit below
    flat = [x for state in (one, other) for x in torch.utils._pytree.tree_leaves(state) if isinstance(x, torch.Tensor)]
    half = len(flat) // 2
    assert all(torch.equal(a, b) for a, b in zip(flat[:half], flat[half:], strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_with_a_bad_gradient_leaves_weights_and_optimizer_bit_for_bit(name, bad):
    def run(gradients):
        weights = [torch.linspace(-1, 1, n).requires_grad_() for n in (3, 4)]
        optimizer, skipper = OPTIMIZERS[name](weights), StepSkipper()
        steps(optimizer, weights, gradients, skipper)
        return weights, copy.deepcopy(optimizer.state_dict()), skipper.skipped()

    weights, state, skipped = run([1.0, bad, bad, -0.5])
    expected, expected_state, none = run([1.0, -0.5])
    same(weights, expected)
    same(state, expected_state)
    assert (skipped, none) == (2, 0)


def test_one_bad_number_among_many_is_enough_and_large_ones_are_not_bad():
    weights = [torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)]
    optimizer, skipper = torch.optim.SGD(weights, lr=1.0), StepSkipper()
    weights[1].grad = torch.tensor([3e38, -3e38, 3e38])
    skipper.before(optimizer)
    assert weights[1].grad is not None
    weights[0].grad = torch.tensor([0.0, float("inf")])
    skipper.before(optimizer)
    assert weights[0].grad is weights[1].grad is None
    assert skipper.skipped() == 1


def test_sparse_gradients_are_read():
    table = torch.nn.Embedding(5, 2, sparse=True)
    optimizer, skipper = torch.optim.SparseAdam(table.parameters()), StepSkipper()
    before = table.weight.detach().clone()
    (table(torch.tensor([1, 1])) * float("nan")).sum().backward()
    skipper.before(optimizer)
    optimizer.step()
    assert torch.equal(before, table.weight)
    assert skipper.skipped() == 1


def test_no_gradient_is_no_step_to_leave_out():
    optimizer, skipper = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=1.0), StepSkipper()
    skipper.before(optimizer)
    assert skipper.skipped() == 0


def test_a_fused_optimizer_is_left_as_it_was():
    weight = torch.ones(2, requires_grad=True)
    optimizer, skipper = OPTIMIZERS["fused"]([weight]), StepSkipper()
    steps(optimizer, [weight], [float("nan")], skipper)
    skipper.restart(skipper.skipped())
    before = weight.detach().clone()
    weight.grad = torch.ones(2)
    optimizer.step()
    assert not torch.equal(before, weight)
    assert skipper.skipped() == 1


def test_beside_a_gradient_scaler_a_fused_step_is_left_out_too():
    weight = torch.ones(2, requires_grad=True)
    optimizer, skipper = OPTIMIZERS["fused"]([weight]), StepSkipper()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for factor in (1.0, float("nan"), 1.0):
        scaler.scale((weight * factor).sum()).backward()
        scaler.unscale_(optimizer)
        skipper.before(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert weight.isfinite().all()
    assert optimizer.state[weight]["step"].item() == 2
    assert skipper.skipped() == 1
