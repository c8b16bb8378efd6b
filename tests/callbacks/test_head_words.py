import pytest
import torch

from logitwatch.callbacks.head_words import head_words, is_head
from logitwatch.functional.linear_head import LinearRows
from logitwatch.states.head_scale import HeadScale


def head(mismatch):
    return HeadScale.of(LinearRows(torch.tensor(1.0), torch.ones(2), torch.ones(2), torch.tensor(mismatch)))


@pytest.mark.parametrize(("mismatch", "found"), [(0.0, True), (0.01, True), (0.06, False), (float("inf"), False)])
def test_a_layer_is_the_head_where_what_it_computes_is_the_logits(mismatch, found):
    assert is_head(head(mismatch)) == found


def test_the_words_name_the_layer_and_the_proof():
    assert head_words("net.3", head(2e-7), "train") == (
        "Head in train: `net.3`. Its W h + b is the logits to 2.0e-07 of the largest."
    )


@pytest.mark.parametrize(
    ("name", "state", "why"),
    [
        (None, HeadScale.empty(), "there is no nn.Linear"),
        ("net.3", HeadScale.empty(), "`net.3` was not heard"),
        ("net.3", head(0.5), "W h + b of `net.3` differs from the logits by 50% of the largest"),
    ],
)
def test_the_words_say_why_there_is_no_head_and_what_to_do(name, state, why):
    words = head_words(name, state, "val")
    assert words.startswith(f"No head was found in val: {why}")
    assert words.endswith("If another layer makes the logits: GradientMonitor(head='its name').")
