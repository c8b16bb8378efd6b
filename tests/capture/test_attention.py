import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import logitwatch.capture.attention as attention_module
from logitwatch.capture.attention import AttentionEar, module_names, sampled_heads
from logitwatch.capture.attention_calls import AttentionCall
from logitwatch.capture.look import CriterionMode, Look
from logitwatch.functional.attention import head_statistics

SDPA = F.scaled_dot_product_attention
BATCH, HEADS, LENGTH, SIZE = 6, 2, 40, 8


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fresh(device=None):
    return torch.Generator().manual_seed(0)


def call_of(*, batch=BATCH, length=LENGTH, key_heads=HEADS, scale=3.0, **options):
    q, k = scale * randn(batch, HEADS, length, SIZE), randn(batch, key_heads, length, SIZE, seed=1)
    return AttentionCall(q, k, **options)


def exact(call):
    """Of all rows, by eager attention in float64."""
    q, k = call.queries.double(), call.keys.double().repeat_interleave(HEADS // call.keys.shape[1], dim=1)
    visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    if call.causal:
        visible = visible.tril()
    for mask in call.masks:
        visible = visible & mask
    return head_statistics(q @ k.transpose(-1, -2) / SIZE**0.5, visible=visible)


MASK = randn(BATCH, 1, 1, LENGTH, seed=7) < 0.5
CALLS = {"plain": {}, "causal": {"causal": True}, "mask": {"masks": (MASK,)}, "shared": {"key_heads": 1}}


@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_a_sample_of_all_rows_is_exact(options):
    call = call_of(**options)
    found, expected = sampled_heads(call, 10**9, fresh()), exact(call)
    assert torch.equal(found.rows, expected.rows)
    assert torch.equal(found.counted, expected.counted)
    # Softmaxes in float32, 240 of them added up.
    torch.testing.assert_close(found.entropy, expected.entropy, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.max_logit.double(), expected.max_logit, rtol=1e-5, atol=0)


@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_a_sample_is_near_and_the_true_maximum_between_what_is_said_of_it(options):
    call = call_of(**options)
    expected = exact(call)
    mean = expected.entropy / expected.counted
    entropies = []
    for seed in range(200):
        found = sampled_heads(call, 32, torch.Generator().manual_seed(seed))
        assert found.rows.tolist() == [32, 32]
        assert (found.max_logit.double() <= expected.max_logit * (1 + 1e-6)).all()  # rounding of float32
        assert (expected.max_logit <= found.bound.double()).all()
        entropies.append(found.entropy / found.counted)
    spread = torch.stack(entropies)
    # Nothing but sampling error: the mean of 200 samples is within four of its standard errors, and one sample of 32
    # rows of an entropy in [0, 1] is hardly ever wrong by 0.15.
    assert ((spread.mean(0) - mean).abs() <= 4 * spread.std(0) / 200**0.5).all()
    assert (spread - mean).abs().max() < 0.15


def test_rows_are_spread_over_positions_and_sequences():
    seen = set()
    # Every row and sequence has its own size, so what was looked at can be told.
    q = (1 + torch.arange(BATCH * LENGTH).reshape(BATCH, 1, LENGTH, 1)).float()
    for seed in range(100):
        found = sampled_heads(AttentionCall(q, torch.ones(BATCH, 1, 1, 1)), 8, torch.Generator().manual_seed(seed))
        place = int(found.max_logit.item()) - 1
        seen.add((place // LENGTH, place % LENGTH // (LENGTH // 2)))
    assert {sequence for sequence, _ in seen} >= {3, 4, 5}  # the largest of four in six
    assert {half for _, half in seen} == {1}  # two rows of each, the later one in the second half


def test_many_logits_are_looked_at_fewer_at_a_time(monkeypatch):
    monkeypatch.setattr(attention_module, "MOST_LOGITS", 10 * HEADS * LENGTH)
    monkeypatch.setattr(attention_module, "MOST_KEYS", HEADS * LENGTH * SIZE)
    assert sampled_heads(call_of(), 32, fresh()).rows.tolist() == [10, 10]


def test_no_value_is_read():
    q, k = torch.empty(BATCH, HEADS, LENGTH, SIZE, device="meta"), torch.empty(BATCH, 1, 9, SIZE, device="meta")
    found = sampled_heads(AttentionCall(q, k, (torch.empty(BATCH, 1, 1, 9, device="meta"),), causal=True), 32)
    assert found.rows.shape == (HEADS,)


class Block(nn.Module):
    """Attention written by hand."""

    def __init__(self, width=16):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def attend(self, q, k, v):
        return SDPA(q, k, v)

    def forward(self, x):
        q, k, v = (part.reshape(*x.shape[:2], 2, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.attend(q, k, v).transpose(1, 2).reshape(x.shape)


X = randn(3, 5, 16)


def heard(module, run, *, rows=10**9):
    look = Look("train")
    look.attention = AttentionEar(module_names(module), rows, lambda device: torch.Generator(device))
    with CriterionMode(look):
        run()
    assert look.attention.fault is None
    return look.attention


def test_layers_are_named_by_the_module_that_attends_in_the_order_of_their_calls():
    net = nn.ModuleDict({"b": nn.ModuleList([Block(), Block()]), "a": nn.MultiheadAttention(16, 2), "unused": Block()})

    def run():
        net["a"](net["b"][1](net["b"][0](X)), X, X)

    assert list(heard(net, run).layers) == ["b.0", "b.1", "a"]


def test_a_name_is_that_from_before_it_was_compiled():
    net = nn.ModuleDict({"net": torch.compile(nn.Sequential(Block()), backend="eager")})
    assert module_names(net)[id(net["net"]._orig_mod[0])] == "net.0"
    assert module_names(net)[id(net["net"]._orig_mod)] == "net"


def test_further_calls_of_a_module_have_places_of_their_own_but_tokens_that_are_generated():
    block = nn.ModuleDict({"block": Block()})

    def run():
        block["block"](X), block["block"](X)
        for _ in range(5):
            block["block"](X[:, :1])

    layers = heard(block, run).layers
    assert list(layers) == ["block", "block #2"]
    assert layers["block"].rows.tolist() == [3 * 5 + 5 * 3] * 2


def test_attention_outside_any_module_has_a_name_too():
    q = randn(1, 2, 4, 8)

    def run():
        SDPA(q, q, q), SDPA(q, q, q)

    assert list(heard(nn.Linear(1, 1), run).layers) == ["attention", "attention #2"]


def test_what_can_not_be_read_is_counted_with_the_reason():
    module = nn.MultiheadAttention(16, 2, add_zero_attn=True)
    ear = heard(module, lambda: [module(X, X, X), module(X, X, X)])
    assert (ear.unread, ear.layers) == (2, {})
    assert ear.reason == (
        "multi_head_attention_forward: keys besides those of the sequence are not read, got add_zero_attn"
    )


def test_attention_of_no_rows_is_nothing():
    q = randn(0, 2, 4, 8)
    assert heard(nn.Linear(1, 1), lambda: SDPA(q, q, q)).layers == {}


def test_what_fails_is_kept_and_keeps_nothing(monkeypatch):
    ear = AttentionEar({}, 32, fresh)

    def fail(*args):
        raise RuntimeError("no room")

    monkeypatch.setattr(attention_module, "sampled_heads", fail)
    q = randn(1, 2, 4, 8)
    there = weakref.ref(q)
    ear.hear(SDPA, (q, q, q), {})
    assert str(ear.fault) == "no room"
    del q
    gc.collect()
    assert there() is None


def test_no_tensor_of_the_network_is_kept():
    ear = AttentionEar({}, 32, fresh)
    q = randn(2, 2, 4, 8).requires_grad_()
    there = weakref.ref(q)
    ear.hear(SDPA, (q, q, q), {})
    assert not any(t.requires_grad for t in ear.layers["attention"])
    del q
    gc.collect()
    assert there() is None


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_block_is_heard_once(reentrant):
    block = Block()

    def run():
        # Not the method of a tensor, during which no mode listens.
        torch.autograd.backward(checkpoint(block, X.clone().requires_grad_(), use_reentrant=reentrant).sum())

    ear = heard(block, run)
    assert [t.rows.tolist() for t in ear.layers.values()] == [[15, 15]]


def test_a_call_that_compiled_code_left_is_heard_once():
    ear = AttentionEar({}, 32, fresh)
    q, other = randn(1, 2, 4, 8), randn(1, 2, 4, 8, seed=1)
    ear.hear(SDPA, (q, q, q), {})
    ear.hear(SDPA, (q, q, q), {}, compiled=True)
    assert len(ear.layers) == 1
    ear.hear(SDPA, (other, q, q), {}, compiled=True)
    assert list(ear.layers) == ["attention", "attention #2"]


def test_the_same_rows_are_drawn_in_a_step_whatever_was_drawn_before():
    generator = torch.Generator()
    q, k = randn(BATCH, HEADS, LENGTH, SIZE), randn(BATCH, HEADS, LENGTH, SIZE, seed=1)
    found = []
    for seed in (3, 3, 4):
        ear = AttentionEar({}, 8, lambda device: generator, seed=seed)
        ear.hear(SDPA, (q, k, k), {})
        found.append(ear.layers["attention"].entropy.tolist())
    assert found[0] == found[1] != found[2]


def test_it_is_timed():
    clock = iter([1.0, 3.0, 10.0, 11.0])
    ear = AttentionEar({}, 8, fresh, now=lambda: next(clock))
    q = randn(1, 2, 4, 8)
    ear.hear(SDPA, (q, q, q), {})
    ear.hear(SDPA, (q, q, q), {})
    assert ear.seconds == 3.0
    look = Look("train")
    assert look.seconds == 0.0
    look.attention = ear
    assert look.seconds == 3.0
