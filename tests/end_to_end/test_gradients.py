"""The gradients of a run: under torch.compile nothing of it changes, and two ranks agree on what is of both."""

import math

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import joined, last, records, texts
from helpers.models import loader, model, namespace, net, trainer
from helpers.ranks import on_ranks
from torch import nn
from torch._dynamo.utils import counters

import logitwatch

L = namespace("pytorch_lightning")
FACTORS = ("logit_scale", "head_norm", "feature_norm", "alignment")


def watching():
    return logitwatch.GradientMonitor(every_n_steps=1, rows=10**9, on_fault="raise")


def said_of(folder, stage):
    return {t.split("/")[-1]: v for t, v in last(folder).items() if t.startswith(f"gradients/{stage}/")}


def gradient(z, y):
    leaf = z.clone().requires_grad_()
    (found,) = torch.autograd.grad(F.cross_entropy(leaf, y, reduction="sum"), leaf)
    return found


def norms(z, y):
    return gradient(z, y).norm(dim=-1)


class Headed(nn.Module):
    """A body and a head, of which either may be compiled."""

    def __init__(self):
        super().__init__()
        layers = net()
        self.body, self.head = layers[:-1], layers[-1]

    def forward(self, x):
        return self.head(self.body(x))


def whole(network):
    return torch.compile(network, backend="aot_eager")


def body_alone(network):
    network.body = torch.compile(network.body, backend="aot_eager")
    return network


@pytest.fixture
def _compile_afresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def criterion_step(module, batch, stage):
    logits = module.net(batch[0])
    module.record(stage, logits, batch[1])
    return module.criterion(logits, batch[1])


@pytest.mark.usefixtures("_compile_afresh")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, after a break
@pytest.mark.parametrize(("compiled", "heard"), [(whole, False), (body_alone, True)], ids=["whole", "body alone"])
def test_a_compiled_network_keeps_its_graphs_and_its_weights_and_a_head_outside_them_is_heard(
    compiled, heard, tmp_path
):
    def fit(callbacks, folder=None):
        torch._dynamo.reset()
        counters.clear()
        subject = model(L, criterion_step, network=compiled(Headed()), criterion=nn.CrossEntropyLoss())
        trainer(L, callbacks, folder=folder, log_every_n_steps=1000).fit(subject, loader(160))
        return subject, counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())

    plain, *expected = fit([])
    subject, *found = fit([watching()], tmp_path)
    assert found == expected
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), subject.parameters(), strict=True))
    said = said_of(tmp_path, "train")
    assert said["norm"] == pytest.approx(norms(*joined(subject.recorded["train"])).mean().item(), rel=1e-3)
    assert (set(FACTORS) <= set(said)) == heard
    (text,) = texts(tmp_path, "gradients/train/head")
    assert ("Compiled code" in text) != heard


RANKS = 2


def rank_step(module, batch, stage):
    h = module.net[:-1](batch[0])
    logits = module.net[-1](h)
    module.record(stage, logits, batch[1])
    module.kept[stage].append(h.detach().clone())
    return F.cross_entropy(logits, batch[1])


def rank_main(rank, folder):
    lightning = namespace("pytorch_lightning")
    strategy = lightning.strategies.DDPStrategy(process_group_backend="gloo")
    options = {"strategy": strategy, "devices": RANKS, "use_distributed_sampler": False, "log_every_n_steps": 1000}
    t = trainer(lightning, [watching()], folder=folder, **options)
    subject = model(lightning, rank_step, kept={"train": [], "val": []})
    # The second rank has fewer rows.
    t.fit(subject, loader(64 - 16 * rank, 16 - 4 * rank, start=100 * rank), loader(32 - 11 * rank, start=300))
    metrics = {name: value.item() for name, value in t.callback_metrics.items()}
    return {
        "recorded": subject.recorded,
        "features": subject.kept["val"],
        "weight": subject.net[-1].weight.detach().clone(),
        "metrics": metrics,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, on_ranks(rank_main, RANKS, folder)


@pytest.mark.ranks
@pytest.mark.slow
def test_what_is_told_of_two_ranks_is_of_the_rows_of_both(run):
    folder, ranks = run
    for stage, rows in (("train", 112), ("val", 53)):
        z, y = joined([call for rank in ranks for call in rank["recorded"][stage]])
        expected, pull = norms(z, y), gradient(z, y).abs().sum(0)
        assert len(expected) == rows
        said = said_of(folder, stage)
        assert said["norm"] == pytest.approx(expected.mean().item(), rel=1e-3)  # see `RowStatistics.gradient_norm`
        assert said["vanishing"] == pytest.approx((expected < 0.01).double().mean().item(), abs=1e-12)
        assert said["largest_class"] == pytest.approx((pull.max() / pull.sum()).item(), rel=1e-5)  # float32
    (table,) = [record for record in records(folder) if record.get("tag") == "gradients/val/classes"]
    shares = dict(zip(map(str, range(10)), (pull / pull.sum()).tolist(), strict=True))
    assert {name: share for name, share, *_ in table["rows"]} == pytest.approx(shares, rel=1e-5)
    h, weight = torch.cat([h for rank in ranks for h in rank["features"]]).double(), ranks[0]["weight"].double()
    assert said["feature_norm"] == pytest.approx(h.norm(dim=1).mean().item(), rel=1e-6)
    assert said["head_norm"] == pytest.approx(weight.norm().item() / math.sqrt(10), rel=1e-6)
    assert said["logit_scale"] == pytest.approx((h @ weight.T).norm(dim=1).mean().item() / math.sqrt(10), rel=1e-5)


@pytest.mark.ranks
@pytest.mark.slow
def test_both_ranks_monitor_the_same_bits_and_one_tells_of_the_head(run):
    folder, ranks = run
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    assert {f"gradients/val/{name}" for name in (*FACTORS, "norm", "vanishing")} <= set(ranks[0]["metrics"])
    assert len(texts(folder, "gradients/val/head")) == 1
    assert sum(record["kind"] == "header" for record in records(folder)) == 1
