"""Law 1 where torch asks who listens: in evaluation its transformer layers run in one kernel, watched or not."""

import pytest
import torch
import torch.nn.functional as F
from helpers.models import loader, model, namespace, trainer
from torch import nn

import logitwatch
from logitwatch.losses import CrossEntropyLoss

# What torch says of the packing of padded tokens, once a process.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, tokens):
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


class Padded(nn.Module):
    """Where some tokens are padding, the encoder packs the others into a nested tensor."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 8, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, tokens):
        padding = torch.arange(4).expand(len(tokens), 4) > (torch.arange(len(tokens)) % 4)[:, None]
        return self.encoder(tokens, src_key_padding_mask=padding)


NETWORKS = {
    "layer": lambda: nn.TransformerEncoderLayer(16, 2, 8, dropout=0.0, batch_first=True),
    "padded": Padded,
    "attention": Attention,
}
CRITERIA = {"function": lambda: None, "module": nn.CrossEntropyLoss, "ours": CrossEntropyLoss}


def step(module, batch, stage):
    logits = module.net["head"](module.net["encoder"](batch[0].reshape(-1, 4, 16)).mean(1))
    loss = (module.criterion or F.cross_entropy)(logits, batch[1])
    module.log(f"{stage}_loss", loss)
    module.kept.append(logits.detach().clone())
    return loss


def run(lightning, network, criterion, callbacks, *, compiled=False):
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    layers = nn.ModuleDict({"encoder": network(), "head": nn.Linear(16, 10)})
    torch.random.set_rng_state(generator)
    subject = model(lightning, step, network=layers, criterion=criterion(), kept=[])
    if compiled:
        layers["encoder"].compile(backend="aot_eager")
    t = trainer(lightning, callbacks)
    t.fit(subject, loader(64), loader(48, start=300))
    return [*subject.kept, t.callback_metrics["val_loss"]]


def same(one, other):
    assert len(one) == len(other) > 4
    assert [torch.equal(a, b) for a, b in zip(one, other, strict=True)] == [True] * len(one)


@pytest.mark.parametrize("space", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("network", NETWORKS)
def test_an_evaluation_keeps_its_fused_layers(space, criterion, network):
    lightning, what = namespace(space), (NETWORKS[network], CRITERIA[criterion])
    without = run(lightning, *what, [])
    kinds = (logitwatch.GradientMonitor, logitwatch.AttentionMonitor)
    same(without, run(lightning, *what, [*logitwatch.watch(every_n_steps=1), *(k(every_n_steps=1) for k in kinds)]))


def test_attention_of_tokens_that_were_packed_is_counted_as_unread(caplog):
    run(namespace("pytorch_lightning"), NETWORKS["padded"], lambda: None, [logitwatch.AttentionMonitor()])
    (said,) = [record.message for record in caplog.records if "could not be read" in record.message]
    assert "attention in val could not be read: _transformer_encoder_layer_fwd: queries must be a dense tensor" in said


@pytest.mark.parametrize("network", NETWORKS)
def test_without_them_the_logits_are_others(network):
    # Or the test above could not fail.
    lightning = namespace("pytorch_lightning")
    fused = run(lightning, NETWORKS[network], lambda: None, [])
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        unfused = run(lightning, NETWORKS[network], lambda: None, [])
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert not all(torch.equal(a, b) for a, b in zip(fused, unfused, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_compiled_evaluation_keeps_them_too(criterion):
    lightning, what = namespace("pytorch_lightning"), (NETWORKS["layer"], CRITERIA[criterion])
    torch._dynamo.reset()
    without = run(lightning, *what, [], compiled=True)
    torch._dynamo.reset()
    same(without, run(lightning, *what, logitwatch.watch(every_n_steps=1), compiled=True))
