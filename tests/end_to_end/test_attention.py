"""The attention of a run: the numbers are those of eager attention in float64, and the run is the same without them."""

import math

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import last, records
from end_to_end.test_op_census import SYNCING, Census, Reads
from helpers.models import NAMESPACES, loader, model, namespace, trainer
from helpers.ranks import on_ranks
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

import logitwatch
from logitwatch.losses import CrossEntropyLoss
from logitwatch.testing import assert_harmless

L = namespace("pytorch_lightning")
TOKENS, WIDTH, HEADS = 4, 16, 4
SIZE = WIDTH // HEADS


class ByHand(nn.Module):
    """Causal attention whose heads share keys in pairs, with dropout, as models of language have it."""

    def __init__(self):
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.kept = {True: [], False: []}

    def forward(self, x):
        q = 20 * self.q(x).reshape(len(x), TOKENS, HEADS, SIZE).transpose(1, 2)
        k, v = (t.reshape(len(x), TOKENS, HEADS // 2, SIZE).transpose(1, 2) for t in self.kv(x).chunk(2, -1))
        self.kept[self.training].append((q, k, torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()))
        drop = 0.2 if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=drop, enable_gqa=True)
        return attended.transpose(1, 2).reshape(x.shape)


def keep_projected(module, attention, x, visible):
    """Keep what a module of torch makes of its input, by its weights as they are now."""
    with torch.no_grad():
        q, k, _ = F.linear(20 * x, attention.in_proj_weight.clone(), attention.in_proj_bias).chunk(3, -1)
    q, k = (t.reshape(len(x), TOKENS, HEADS, SIZE).transpose(1, 2) for t in (q, k))
    module.kept[module.training].append((q, k, visible))


class OfTorch(nn.Module):
    """`nn.MultiheadAttention` over padded tokens."""

    def __init__(self, need_weights=True):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.1, batch_first=True)
        self.need_weights, self.kept = need_weights, {True: [], False: []}

    def forward(self, x):
        padding = torch.arange(TOKENS) > (2 + torch.arange(len(x)) % 2)[:, None]
        keep_projected(self, self.attention, x, ~padding[:, None, None, :])
        x = 20 * x
        return self.attention(x, x, x, key_padding_mask=padding, need_weights=self.need_weights)[0]


class Encoder(nn.Module):
    """A layer that runs in one kernel in an evaluation."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 8, batch_first=True, dropout=0.1)
        self.kept = {True: [], False: []}

    def forward(self, x):
        keep_projected(self, self.layer.self_attn, x, torch.ones(TOKENS, TOKENS, dtype=torch.bool))
        return self.layer(20 * x)


def attending(block):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Unflatten(1, (TOKENS, WIDTH)), block(), nn.Flatten(), nn.Linear(TOKENS * WIDTH, 10))


NETWORKS = {
    "by hand": ByHand,
    "module": OfTorch,
    "module without weights": lambda: OfTorch(need_weights=False),
    "encoder layer": Encoder,
}
NAMES = {ByHand: "net.1", OfTorch: "net.1.attention", Encoder: "net.1.layer.self_attn"}


def eager(kept):
    """Size, and normalised entropy of each row that sees two keys or more, of each head, in float64."""
    sizes, entropies = [], []
    for q, k, visible in kept:
        q, k = q.detach().double(), k.detach().double()
        z = q @ k.repeat_interleave(HEADS // k.shape[1], dim=1).transpose(-1, -2) / math.sqrt(SIZE)
        shown = visible.expand(z.shape)
        sizes.append(z.abs().masked_fill(~shown, -math.inf).amax((0, 2, 3)))
        p = z.masked_fill(~shown, -math.inf).softmax(-1)
        entropy = (-torch.special.xlogy(p, p).sum(-1) / shown.sum(-1).double().log()).transpose(0, 1)
        several = (shown.sum(-1) > 1).transpose(0, 1)
        entropies.append(torch.stack([e[which] for e, which in zip(entropy, several, strict=True)]))
    return torch.stack(sizes).amax(0), torch.cat(entropies, dim=1)


def assert_said(folder, stage, name, kept):
    """What is said of one layer of which every row was looked at."""
    sizes, entropies = eager(kept)
    said = {t.split("/")[-1]: v for t, v in last(folder).items() if t.startswith(f"attention/{stage}/")}
    # Inner products and softmaxes in float32, and queries made once more where torch makes them inside.
    assert said["max_logit"] == pytest.approx(sizes.max().item(), rel=1e-4)
    assert said["max_logit_bound"] >= said["max_logit"]
    means = entropies.mean(1)
    assert said["entropy"] == pytest.approx(means.mean().item(), abs=1e-4)
    assert said["entropy_min"] == pytest.approx(means.min().item(), abs=1e-4)
    assert said["nonfinite"] == said["unread"] == said["left_out"] == 0
    maps = {r["tag"].split("/")[-1]: r for r in records(folder) if r["kind"] == "heatmap" and f"/{stage}/" in r["tag"]}
    assert maps["max_logit_by_head"]["row_labels"] == [name]
    # Four digits of each.
    assert maps["max_logit_by_head"]["values"][0] == pytest.approx(sizes.tolist(), rel=1e-3)
    assert maps["entropy_by_head"]["values"][0] == pytest.approx(means.tolist(), rel=1e-3, abs=1e-4)


def watching(**options):
    return logitwatch.AttentionMonitor(**{"every_n_steps": 1, "query_rows": 10**9, "on_fault": "raise", **options})


@pytest.mark.parametrize("space", NAMESPACES)
@pytest.mark.parametrize("network", NETWORKS)
def test_of_every_row_the_numbers_are_those_of_eager_attention(space, network, tmp_path):
    lightning = namespace(space)
    subject = model(lightning, network=attending(NETWORKS[network]))
    t = trainer(lightning, [watching()], folder=tmp_path, log_every_n_steps=1000)
    t.fit(subject, loader(64), loader(48, start=300))
    block = subject.net[1]
    for stage in ("train", "val"):
        assert_said(tmp_path, stage, NAMES[type(block)], block.kept[stage == "train"])


def test_under_autocast_they_are_those_of_the_numbers_in_half_precision(tmp_path):
    subject = model(L, network=attending(ByHand))
    t = trainer(L, [watching()], folder=tmp_path, log_every_n_steps=1000, precision="bf16-mixed")
    t.fit(subject, loader(64), loader(48, start=300))
    assert subject.net[1].kept[True][0][0].dtype == torch.bfloat16
    assert_said(tmp_path, "train", "net.1", subject.net[1].kept[True])


def test_a_sample_is_within_sampling_error(tmp_path):
    subject = model(L, network=attending(ByHand))
    t = trainer(L, [watching(query_rows=8)], folder=tmp_path, log_every_n_steps=1000)
    t.fit(subject, loader(640), loader(48, start=300))
    said = {t.split("/")[-1]: v for t, v in last(tmp_path).items() if t.startswith("attention/train/")}
    sizes, entropies = eager(subject.net[1].kept[True])
    assert said["rows"] == 40 * HEADS * 8
    assert said["max_logit"] <= sizes.max().item() * (1 + 1e-6) <= said["max_logit_bound"]  # rounding of float32
    # 240 rows of each head see two keys or more; four standard errors of the mean over them.
    error = 4 * entropies.std().item() / math.sqrt(240)
    assert said["entropy"] == pytest.approx(entropies.mean().item(), abs=error)


def run(lightning, network, callbacks, *, criterion=None, **options):
    def step(module, batch, stage):
        logits = module.net(batch[0])
        loss = (module.criterion or F.cross_entropy)(logits, batch[1])
        module.log(f"{stage}_loss", loss)
        return loss

    subject = model(lightning, step, network=attending(network), criterion=criterion and criterion())
    t = trainer(lightning, callbacks, max_epochs=2, **options)
    t.fit(subject, loader(64), loader(48, start=300))
    return t


@pytest.mark.parametrize("space", NAMESPACES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_watched_run_is_the_same_run(space, network):
    lightning, block = namespace(space), NETWORKS[network]
    assert_harmless(lambda: run(lightning, block, [watching(query_rows=8)]), lambda: run(lightning, block, []))


@pytest.mark.parametrize("criterion", [None, nn.CrossEntropyLoss, CrossEntropyLoss], ids=["function", "module", "ours"])
@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}], ids=str)
def test_it_is_also_with_the_other_monitors(criterion, options):
    def watched():
        monitors = [*logitwatch.watch(every_n_steps=2), watching(query_rows=8, every_n_steps=2)]
        return run(L, Encoder, monitors, criterion=criterion, **options)

    assert_harmless(watched, lambda: run(L, Encoder, [], criterion=criterion, **options))


class Checkpointed(ByHand):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


def test_a_checkpointed_region_is_heard_once(tmp_path):
    assert_harmless(lambda: run(L, Checkpointed, [watching()]), lambda: run(L, Checkpointed, []))
    subject = model(L, network=attending(Checkpointed))
    trainer(L, [watching()], folder=tmp_path).fit(subject, loader(64))
    assert last(tmp_path)["attention/train/rows"] == 4 * 16 * TOKENS * HEADS


@pytest.fixture
def _compile_afresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def unkept(network):
    """A list that grows would be compiled anew at each step."""
    block = network[1]
    block.kept = {True: Forgetful(), False: Forgetful()}
    return network


class Forgetful:
    def append(self, item):
        pass


@pytest.mark.usefixtures("_compile_afresh")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, after a break
@pytest.mark.parametrize("block", [ByHand, OfTorch, Checkpointed])
def test_a_compiled_network_keeps_its_graphs_and_its_weights_and_is_heard_in_training(block, tmp_path):
    def fit(callbacks, folder=None, backend="aot_eager"):
        torch._dynamo.reset()
        counters.clear()
        network = unkept(attending(block))
        network = network if backend is None else torch.compile(network, backend=backend)
        subject = model(L, network=network, lr=0.01)
        t = trainer(L, callbacks, folder=folder, log_every_n_steps=1000)
        with torch.random.fork_rng(devices=[]):  # of dropout
            torch.manual_seed(0)
            t.fit(subject, loader(160), loader(48, start=300))
        return subject, counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())

    # Any mode that listens has a graph of its own.
    plain, *expected = fit(logitwatch.watch(every_n_steps=3))
    subject, *found = fit([watching(every_n_steps=3)], tmp_path / "compiled")
    assert found == expected
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), subject.parameters(), strict=True))
    said = last(tmp_path / "compiled")
    assert "attention/val/rows" not in said
    if block is Checkpointed:  # what it would keep is what it is to forget
        assert "attention/train/rows" not in said
        return
    fit([watching(every_n_steps=3)], tmp_path / "eager", backend=None)
    eagerly = last(tmp_path / "eager")
    for name in ("max_logit", "max_logit_bound", "entropy", "entropy_min", "rows"):
        # A compiler may round otherwise, and ten steps of training carry that on.
        assert said[f"attention/train/{name}"] == pytest.approx(eagerly[f"attention/train/{name}"], rel=1e-3), name
    (labels, *_) = [r["row_labels"] for r in records(tmp_path / "compiled") if r["kind"] == "heatmap"]
    assert labels == ["attention"]


def test_steps_that_are_not_reported_read_no_number():
    subject = model(L, network=unkept(attending(OfTorch)))
    t = trainer(L, [watching(query_rows=8)], log_every_n_steps=10, max_epochs=1)

    def where():
        return t.global_step

    with Census(where) as census, Reads(where) as reads:
        t.fit(subject, loader(16 * 25))
    assert set(census.found) == set(range(26))
    for at, counter in census.found.items():
        if (at % 10 or at == 0) and at < 25:
            assert sorted(SYNCING & set(counter)) == [], at
    assert {at for at in reads.found if at % 10 and at < 25} == set()
    assert 10 in reads.found  # it can see


RANKS = 2


def rank_main(rank, folder):
    lightning = namespace("pytorch_lightning")
    strategy = lightning.strategies.DDPStrategy(process_group_backend="gloo")
    options = {"strategy": strategy, "devices": RANKS, "use_distributed_sampler": False, "log_every_n_steps": 1000}
    t = trainer(lightning, [watching()], folder=folder, **options)
    subject = model(lightning, network=attending(ByHand))
    # The second rank has fewer rows.
    t.fit(subject, loader(64 - 16 * rank, 16 - 4 * rank, start=100 * rank), loader(32 - 11 * rank, start=300))
    kept = {stage: [tuple(t.detach() for t in call) for call in calls] for stage, calls in subject.net[1].kept.items()}
    return {"kept": kept, "metrics": {name: value.item() for name, value in t.callback_metrics.items()}}


@pytest.mark.ranks
@pytest.mark.slow
def test_what_is_told_of_two_ranks_is_of_the_rows_of_both(tmp_path):
    ranks = on_ranks(rank_main, RANKS, tmp_path)
    for stage, rows in (("train", 112), ("val", 53)):
        kept = [call for rank in ranks for call in rank["kept"][stage == "train"]]
        assert last(tmp_path)[f"attention/{stage}/rows"] == rows * TOKENS * HEADS
        assert_said(tmp_path, stage, "net.1", kept)
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    assert "attention/val/max_logit" in ranks[0]["metrics"]
