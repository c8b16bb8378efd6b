import random

import numpy as np
import pytest
import torch

from logitwatch.callbacks.generators import kept_random, own_random, random_states, seed_everything


def drawn():
    return torch.rand(3).tolist(), np.random.rand(), random.random()


def same(one, other):
    return (
        one["python"] == other["python"]
        and torch.equal(one["torch"], other["torch"])
        and all(np.array_equal(a, b) for a, b in zip(one["numpy"], other["numpy"], strict=True))
    )


@pytest.mark.parametrize("context", [kept_random, lambda: own_random(3)], ids=["kept", "own"])
def test_what_the_body_draws_is_put_back_after_an_exception_too(context):
    before = random_states()

    def body():
        with context():
            drawn()
            raise KeyError

    with pytest.raises(KeyError):
        body()
    assert same(random_states(), before)


def test_what_is_drawn_of_ones_own_is_by_the_seed_alone():
    with kept_random():
        found = []
        for begun, seed in ((0, 3), (1, 3), (1, 4)):
            seed_everything(begun)
            with own_random(seed):
                found.append(drawn())
    assert found[0] == found[1] != found[2]


def test_a_seed_of_ones_own_does_not_wait_for_cuda(monkeypatch):
    """torch keeps a seed for a device that is not in use yet, and it would be the one the run gets."""
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    with own_random(3):
        torch.rand(1)
    assert seeds == []
