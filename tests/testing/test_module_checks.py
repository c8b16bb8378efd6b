import signal

import pytest
import torch
from helpers.bad_monitors import Clinging, Plain, assert_found_out, mutants_of
from torch.overrides import TorchFunctionMode

from logitwatch.testing.module_checks import (
    MODULE_CHECKS,
    it_lets_go_of_the_module_after_a_fit,
    it_lets_go_of_the_module_after_an_error_of_the_user,
    it_lets_go_of_the_module_after_an_interrupt,
    no_logits_or_graph_outlive_their_step,
)


@pytest.mark.parametrize("mutant", mutants_of(MODULE_CHECKS), ids=lambda mutant: mutant.kind.__name__)
def test_what_is_left_is_found_out(mutant):
    assert_found_out(mutant)


def test_a_mark_that_is_taken_off_in_time_is_none():
    for check in MODULE_CHECKS:
        check(Clinging)


def hook(trainer, module):
    module.body[0].register_full_backward_hook(lambda *_: None)


def parameter_hook(trainer, module):
    module.head.weight.register_hook(lambda gradient: None)


def accumulation_hook(trainer, module):
    module.head.weight.register_post_accumulate_grad_hook(lambda parameter: None)


def optimizer_hook(trainer, module):
    trainer.optimizers[0].register_step_post_hook(lambda *_: None)


def step(trainer, module):
    inner = module.training_step
    module.training_step = lambda *args: inner(*args)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize(
    ("leave", "what"),
    [
        (hook, "_backward_hooks of module body.0"),
        (parameter_hook, "_backward_hooks of parameter head.weight"),
        (accumulation_hook, "_post_accumulate_grad_hooks of parameter head.weight"),
        (optimizer_hook, "_optimizer_step_post_hooks of optimizer 0"),
        (step, "training_step of module"),
    ],
)
def test_hooks_of_every_kind_are_found(leave, what):
    class Leaves(Plain):
        def on_train_start(self, trainer, pl_module):
            leave(trainer, pl_module)

    with pytest.raises(AssertionError, match=f"left behind: .*{what}"):
        it_lets_go_of_the_module_after_a_fit(Leaves)


def test_a_mode_that_is_left_on_is_found():
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    modes = []

    class Leaves(Plain):
        def on_train_start(self, trainer, pl_module):
            modes.append(Mode().__enter__())

    try:
        with pytest.raises(AssertionError, match="left behind: function modes"):
            it_lets_go_of_the_module_after_a_fit(Leaves)
    finally:
        for mode in reversed(modes):
            mode.__exit__(None, None, None)
    assert torch.overrides._get_current_function_mode_stack() == []


def test_an_error_that_takes_the_place_of_the_users_is_found():
    class Fails(Plain):
        def on_exception(self, trainer, pl_module, exception):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        it_lets_go_of_the_module_after_an_error_of_the_user(Fails)


def test_interrupts_work_after_the_check_of_them():
    before = signal.getsignal(signal.SIGINT)
    it_lets_go_of_the_module_after_an_interrupt(Plain)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_copy_of_the_logits_may_be_kept():
    class Keeps(Plain):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.kept = outputs["logits"].detach().clone()

    no_logits_or_graph_outlive_their_step(Keeps)


def test_a_cycle_that_is_collected_is_not_taken_for_logits_kept():
    class Tangled(Plain):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            tangle = [outputs["logits"]]
            tangle.append(tangle)

    no_logits_or_graph_outlive_their_step(Tangled)
