import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from logitwatch.capture.heads import last_linear, linear_names, made_by, read_linear


def read(linear, x):
    return read_linear(linear, (x,), {}, linear(x))


def test_layers_that_run_fused_are_left_alone():
    encoder = nn.TransformerEncoderLayer(4, 2, batch_first=True)
    module = nn.ModuleDict({"body": nn.Linear(3, 4), "encoder": encoder, "decoder": nn.TransformerDecoderLayer(4, 2)})
    assert linear_names(module) == ["body"]
    assert last_linear(nn.ModuleList([encoder])) is None


def test_a_call_is_rows_of_what_went_in_and_out_without_a_copy_or_a_graph():
    linear, x = nn.Linear(3, 4), torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    z = linear(x)
    call = read_linear(linear, (), {"input": x}, z)
    assert call.features.shape == (10, 3)
    assert call.outputs.shape == (10, 4)
    assert call.result is z
    for own, theirs in ((call.features, x), (call.outputs, z), (call.weight, linear.weight), (call.bias, linear.bias)):
        assert own.data_ptr() == theirs.data_ptr()
        assert not own.requires_grad


def test_a_layer_without_a_bias_has_none():
    assert read(nn.Linear(3, 4, bias=False), torch.ones(2, 3)).bias is None


def test_a_weight_that_is_made_at_each_access_is_not_asked_for():
    linear = parametrizations.spectral_norm(nn.Linear(3, 4))
    before = {name: value.clone() for name, value in linear.state_dict().items()}
    assert read_linear(linear, (torch.ones(2, 3),), {}, torch.ones(2, 4)) is None
    assert all(torch.equal(before[name], value) for name, value in linear.state_dict().items())


@pytest.mark.parametrize(
    ("given", "output"),
    [
        (None, torch.ones(2, 4)),
        (torch.ones(2, 3), (torch.ones(2, 4),)),
        (torch.ones(2, 3), torch.ones(2, 5)),
        (torch.ones(2, 7), torch.ones(2, 4)),
        (torch.ones(2, 3), torch.ones(())),
        (torch.eye(3).to_sparse(), torch.ones(3, 4)),
    ],
)
def test_what_is_not_the_call_of_a_linear_layer_is_none(given, output):
    assert read_linear(nn.Linear(3, 4), (given,), {}, output) is None


def test_a_layer_without_rows_or_features_does_no_harm():
    assert read(nn.Linear(3, 4), torch.ones(0, 3)).outputs.shape == (0, 4)
    empty = nn.Linear(1, 4)
    empty.weight = nn.Parameter(torch.ones(4, 0))
    assert read_linear(empty, (torch.ones(2, 0),), {}, torch.ones(2, 4)) is None


def test_a_weight_whose_memory_was_let_go_is_not_whole():
    linear = nn.Linear(3, 4)
    call = read(linear, torch.ones(2, 3))
    assert call.whole
    linear.weight.untyped_storage().resize_(0)
    assert not call.whole


def test_the_call_that_made_the_logits_is_preferred_to_the_last():
    linear = nn.Linear(3, 4)
    calls = [read(linear, torch.full((2, 3), float(i))) for i in range(3)]
    assert made_by(calls, calls[1].result) is calls[1]
    assert made_by(calls, calls[0].result.view(-1, 2, 2)) is calls[0]
    assert made_by(calls, torch.ones(2, 4)) is calls[2]
    assert made_by([], torch.ones(2, 4)) is None
