import torch

from logitwatch.callbacks.attention_layers import AttentionLayers
from logitwatch.functional.attention import head_statistics
from logitwatch.states.attention_summary import MOST_LAYERS

HEADS = head_statistics(torch.ones(1, 2, 3, 4))


def test_a_layer_keeps_the_place_it_was_given_first():
    layers = AttentionLayers()
    layers.summary({"b": HEADS, "a": HEADS})
    later = layers.summary({"a": HEADS, "c": HEADS})
    assert layers.names == ["b", "a", "c"]
    assert later.rows[:4, 0].tolist() == [0, 3, 3, 0]


def test_it_goes_on_with_the_names_it_is_given():
    layers = AttentionLayers(["x", "y"])
    assert layers.summary({"z": HEADS, "x": HEADS}).rows[:3, 0].tolist() == [3, 0, 3]


def test_layers_beyond_the_places_are_counted_and_keep_nobody_out():
    layers = AttentionLayers(f"old {n}" for n in range(MOST_LAYERS - 1))
    summary = layers.summary({"last": HEADS, "late": HEADS, "later": HEADS, "old 3": HEADS}, unread=2)
    assert (int(summary.left_out), int(summary.unread)) == (4, 2)
    assert summary.rows[[3, MOST_LAYERS - 1], 0].tolist() == [3, 3]
    assert len(layers.names) == MOST_LAYERS


def test_the_state_is_where_it_is_to_be():
    summary = AttentionLayers().summary({}, unread=1, device=torch.device("meta"))
    assert summary.rows.device.type == summary.unread.device.type == "meta"
