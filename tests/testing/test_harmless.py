import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.models import NAMESPACES, namespace
from torch import nn

import logitwatch
from logitwatch.callbacks._compat import LightningCallback
from logitwatch.sinks.glossary import QUANTITIES
from logitwatch.testing.harmless import assert_harmless
from logitwatch.testing.specimen import train


class Harm(LightningCallback):
    def __init__(self, hook, act):
        super().__init__()
        setattr(self, hook, act)


def scale_a_gradient(trainer, module):
    module.head.bias.grad.mul_(1.001)


def change_a_buffer(trainer, module):
    module.body[1].running_mean.add_(1)


def log_over(trainer, module):
    trainer.callback_metrics["val_loss"].add_(1)


def step_twice(trainer, module, *_):
    trainer.optimizers[0].step()


def another_rate(trainer, module):
    trainer.lr_scheduler_configs[0].scheduler.step()


def leave_a_gradient(trainer, module):  # Lightning leaves none
    module.head.bias.grad = torch.ones(5)


HARMS = {
    "draws from torch": (Harm("on_train_end", lambda *_: torch.rand(1)), "random numbers of torch: drawn or seeded"),
    "draws from numpy": (Harm("on_train_end", lambda *_: np.random.rand()), "random numbers of numpy"),
    "draws from python": (Harm("on_train_end", lambda *_: random.random()), "random numbers of python"),
    "seeds": (Harm("on_train_start", lambda *_: torch.manual_seed(3)), "parameter body.0.weight: .* elements differ"),
    "scales a gradient": (Harm("on_after_backward", scale_a_gradient), "optimizer 0 state 5 exp_avg: 5 of 5"),
    "leaves a gradient": (Harm("on_train_end", leave_a_gradient), r"head.bias: float32 \(5,\) with it, None without"),
    "changes a buffer": (Harm("on_train_end", change_a_buffer), "running_mean: 16 of 16 elements differ, by up to 1$"),
    "logs over a metric": (Harm("on_fit_end", log_over), r"callback_metrics val_loss: 2\.\d+ with it, 1\.\d+ without"),
    "steps twice": (Harm("on_train_batch_end", step_twice), "optimizer 0 state 0 step: 16.0 with it, 8.0 without"),
    "turns down the rate": (Harm("on_train_end", another_rate), "scheduler 0 last_epoch: 3 with it, 2 without"),
}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("harm", HARMS)
def test_a_callback_that_does_harm_is_found_out(harm):
    callback, message = HARMS[harm]
    with pytest.raises(AssertionError, match=f"(?m){message}"):
        assert_harmless(lambda: train([callback]), lambda: train([]))


@pytest.mark.parametrize("name", NAMESPACES)
def test_the_suite_does_none(name):
    lightning = namespace(name)

    def suite():
        others = logitwatch.DropoutProbe(), logitwatch.GradientMonitor(), logitwatch.Recalibrator()
        return [*logitwatch.watch(every_n_steps=1), *others]

    assert_harmless(lambda: train(suite(), lightning=lightning), lambda: train([], lightning=lightning))


def test_every_difference_is_listed_and_only_those():
    def both(trainer, module):
        change_a_buffer(trainer, module)
        torch.rand(1)

    with pytest.raises(AssertionError) as raised:
        assert_harmless(lambda: train([Harm("on_train_end", both)]), lambda: train([]))
    lines = str(raised.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "the run is not the same with it",
        "random numbers of torch",
        "buffer body.1.running_mean",
    ]


def ended(module=None, *, optimizers=(), metrics=(), **state):
    """What a Trainer has left, as far as it is compared."""
    module = module or nn.Linear(1, 1, bias=False)
    for name, value in state.items():
        module.register_buffer(name, value)
    return SimpleNamespace(
        lightning_module=module,
        optimizers=[SimpleNamespace(state_dict=lambda value=value: value) for value in optimizers],
        lr_scheduler_configs=[],
        global_step=1,
        current_epoch=1,
        callback_metrics=dict(metrics),
        logged_metrics={},
    )


def compare(one, other):
    assert_harmless(lambda: ended(x=one), lambda: ended(x=other))


NAN = float("nan")


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ([0.0, 1.0], [-0.0, 1.0], "x: 1 of 2 elements differ, by up to 0"),
        ([NAN, 1.0], [2.0, 1.0], "x: 1 of 2 elements differ, by up to nan"),
        ([1.0], [2.0], "x: 1.0 with it, 2.0 without"),
        ([1.0, 2.0], [1.0], r"x: float32 \(2,\) with it, float32 \(1,\) without"),
        ([1], [1.0], r"x: int64 \(1,\) with it, float32 \(1,\) without"),
        ([True, False], [True, True], "x: 1 of 2 elements differ, by up to 1"),
        ([1 + 1j, 0j], [1 + 2j, 0j], "x: 1 of 2 elements differ, by up to 1"),
        ([2**60, 1], [2**60 + 1, 1], "x: 1 of 2 elements differ"),
    ],
    ids=str,
)
def test_a_tensor_differs_in_any_bit(one, other, message):
    with pytest.raises(AssertionError, match=message):
        compare(torch.tensor(one), torch.tensor(other))


@pytest.mark.parametrize(
    "value",
    [[NAN, 1.0], [], [True], [1j, complex(NAN, 0)], [float("inf")], 3, [[1.0, 2.0]] * 3],
    ids=str,
)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.complex64], ids=str)
def test_equal_tensors_are_equal(value, dtype):
    tensor = torch.tensor(value)
    if dtype is not None and not tensor.is_complex():
        tensor = tensor.to(dtype)
    compare(tensor, tensor.clone())


def test_a_nan_is_a_nan_whatever_its_bits():
    bits = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32)
    compare(bits.view(torch.float32), bits.flip(0).view(torch.float32))


def test_a_view_of_another_layout_is_compared_by_value():
    tensor = torch.arange(6.0).reshape(2, 3)
    compare(tensor.T.contiguous().T, tensor)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"a": 1}, {}, "optimizer 0 a: only with it"),
        ({}, {"a": 1}, "optimizer 0 a: only without it"),
        ({"a": [1, 2]}, {"a": [1, 3]}, "optimizer 0 a 1: 2 with it, 3 without"),
        ({"a": [1]}, {"a": [1, 3]}, r"optimizer 0 a: \[1\] with it, \[1, 3\] without"),
        ({"a": "x" * 99}, {"a": "y"}, r"optimizer 0 a: 'x+\.\.\. with it, 'y' without"),
        ({"a": object()}, {"a": print}, "optimizer 0 a: <object"),
    ],
)
def test_nested_states_differ_where_they_differ(one, other, message):
    with pytest.raises(AssertionError, match=message):
        assert_harmless(lambda: ended(optimizers=[one]), lambda: ended(optimizers=[other]))


def test_states_that_are_equal_are_equal():
    def state():
        return {"nan": NAN, "none": None, "object": object(), "function": lambda: 0, 3: (1, [torch.ones(2)])}

    assert_harmless(lambda: ended(optimizers=[state()]), lambda: ended(optimizers=[state()]))


@pytest.mark.parametrize("family", sorted({name.partition("/")[0] for name in QUANTITIES} | {"alerts"}))
def test_what_is_logged_besides_and_by_logitwatch_is_no_harm(family):
    theirs, own = {"val_loss": torch.ones(())}, f"{family}/val/x"
    with_it = {**theirs, own: torch.zeros(()), "mine/val/x": torch.ones(())}
    assert_harmless(lambda: ended(metrics=with_it), lambda: ended(metrics={**theirs, own: torch.ones(())}))


def test_a_metric_that_is_gone_is_harm():
    with pytest.raises(AssertionError, match="callback_metrics val_loss: only without it"):
        assert_harmless(lambda: ended(), lambda: ended(metrics={"val_loss": torch.ones(())}))


def test_both_runs_must_not_train_the_same_module():
    module = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="each must make its own"):
        assert_harmless(lambda: ended(module), lambda: ended(module))


def drawn():
    return torch.rand(1).item(), np.random.rand(), random.random()


@pytest.mark.parametrize("seed", [0, 7])
def test_both_runs_begin_with_the_seed_and_the_callers_numbers_are_put_back(seed):
    begun = []

    def run():
        begun.append(drawn())
        return ended(nn.Linear(1, 1))

    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = drawn()
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])
    assert_harmless(run, run, seed=seed)
    assert begun[0] == begun[1]
    assert drawn() == expected
    generator = torch.Generator().manual_seed(seed)
    assert begun[0][0] == torch.rand(1, generator=generator).item()


def test_they_are_put_back_after_an_exception_too():
    def run():
        torch.rand(3)
        raise KeyError("the run's own")

    before = torch.get_rng_state()
    with pytest.raises(KeyError, match="the run's own"):
        assert_harmless(run, run)
    assert torch.equal(torch.get_rng_state(), before)
