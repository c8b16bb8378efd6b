"""Two ranks probe rows of their own, and what is told is of the rows of both."""

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import last, records
from helpers.models import digits, loader, model, namespace, net, trainer
from helpers.ranks import Collectives, on_ranks

import logitwatch
from logitwatch.callbacks.generators import own_random
from logitwatch.states.dropout_summary import DropoutSummary

RANKS, PASSES = 2, 4


def step(module, batch, stage):
    return F.cross_entropy(module(batch[0]), batch[1])


def rank_main(rank, folder):
    lightning = namespace("pytorch_lightning")
    strategy = lightning.strategies.DDPStrategy(process_group_backend="gloo")
    options = {"strategy": strategy, "devices": RANKS, "use_distributed_sampler": False, "log_every_n_steps": 1000}
    t = trainer(lightning, [logitwatch.DropoutProbe(passes=PASSES, on_fault="raise")], folder=folder, **options)
    subject = model(lightning, step, network=net(dropout=0.5))
    type(subject).forward = lambda self, x: self.net(x)
    with Collectives() as collectives:
        # The second rank has fewer rows.
        t.fit(subject, loader(64 - 16 * rank, 16 - 4 * rank), loader(32, 16 - 5 * rank, start=300))
    metrics = {name: value.item() for name, value in t.callback_metrics.items() if name.startswith("dropout/")}
    return {"metrics": metrics, "net": subject.net, "collectives": collectives.ours()}


def rows(network, rank):
    """What a rank should have seen, with its own seed."""
    x = digits()[0][300 : 316 - 5 * rank]
    network.eval()[2].train()
    with own_random(rank), torch.no_grad():
        return DropoutSummary.of(torch.stack([network(x) for _ in range(PASSES)]))


@pytest.mark.ranks
@pytest.mark.slow
def test_two_ranks_probe_their_own_rows_and_agree(tmp_path):
    one, other = on_ranks(rank_main, RANKS, tmp_path)
    assert one["metrics"] == other["metrics"]
    expected = rows(one["net"], 0).merge(rows(other["net"], 1))
    said = {tag.split("/")[-1]: value for tag, value in last(tmp_path).items() if tag.startswith("dropout/")}
    assert said["rows"] == 27
    for name, value in expected.means().items():
        assert said[name] == pytest.approx(value.item(), rel=1e-12), name
    assert sum(record["kind"] == "header" for record in records(tmp_path)) == 1
    # Sizes are agreed on once; then a report is a sum and a maximum: of the validation, and of the training's end.
    assert one["collectives"] == other["collectives"]
    assert [name for name, *_ in one["collectives"]].count("all_reduce") == len(one["collectives"])
