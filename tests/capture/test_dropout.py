import pytest
import torch
from torch import nn

from logitwatch.capture.dropout import dropout_layers, dropping_out


class DropPath(nn.Module):
    def forward(self, x):
        return x * torch.rand(()) if self.training else x


class DropBlocks(nn.Sequential):
    """Blocks that drop something, whose name says so: they may hold anything."""


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(3))
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().sum(0)
        return x


def network():
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), Counting(), DropPath())


def names(module):
    layers = dropout_layers(module)
    return [name for name, child in module.named_modules() if any(child is layer for layer in layers)]


@pytest.mark.parametrize("layer", [nn.Dropout1d(0.1), nn.AlphaDropout(0.1), nn.FeatureAlphaDropout(0.1), DropPath()])
def test_a_layer_that_drops_is_found(layer):
    assert names(nn.Sequential(nn.Linear(1, 1), layer)) == ["1"]


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.0), nn.MultiheadAttention(2, 1), nn.GRU(2, 2), DropBlocks(nn.BatchNorm1d(2)), nn.BatchNorm1d(2)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_that_drops_nothing_or_does_more_is_not(layer):
    assert names(nn.Sequential(layer)) == []


def test_a_layer_that_runs_fused_in_evaluation_drops_too():
    encoder = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.5, batch_first=True).eval()
    layers = dropout_layers(encoder)
    x = torch.ones(2, 3, 4)
    with torch.random.fork_rng(devices=[]), dropping_out(encoder, layers):
        assert not torch.equal(encoder(x), encoder(x))
    assert torch.equal(encoder(x), encoder(x))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("training", [False, True])
def test_the_module_is_as_it_was_after_it_and_after_an_exception_too(training, mode):
    module = network().train(training)
    module[0].eval()
    flags = [child.training for child in module.modules()]
    buffers = {name: (buffer, buffer.clone()) for name, buffer in module.named_buffers()}
    versions = {name: buffer._version for name, buffer in module.named_buffers() if "running" in name}

    def body():
        with torch.random.fork_rng(devices=[]), mode(), dropping_out(module, dropout_layers(module)):
            assert [child.training for child in module.modules()] == [False, False, False, True, False, True]
            assert not module(torch.ones(4, 3)).requires_grad
            assert module[3].calls.item() == 1
            raise KeyError

    with pytest.raises(KeyError):
        body()
    assert [child.training for child in module.modules()] == flags
    for name, buffer in module.named_buffers():
        assert buffer is buffers[name][0]
        assert torch.equal(buffer, buffers[name][1]), name
    # Nobody wrote to what did not change: a graph that needs it is still good.
    assert all(module.get_buffer(name)._version == version for name, version in versions.items())


def test_compiled_code_is_not_compiled_anew():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).eval()
    compiled, x = torch.compile(module, backend=backend), torch.ones(2, 3)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        plain = compiled(x)
        with dropping_out(compiled, dropout_layers(compiled)):
            assert not torch.equal(compiled(x), plain)
        assert torch.equal(compiled(x), plain)
    torch._dynamo.reset()
    assert len(graphs) == 1
