"""Two ranks, one of them in trouble: nobody waits, the model is the same, and what was seen is what is reported."""

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import last, scalars
from helpers.models import cross_entropy_step, loader, model, namespace, trainer
from helpers.ranks import Collectives, on_ranks

import logitwatch
from logitwatch.testing import ChaosCallback

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
RANKS = 2
L = namespace("pytorch_lightning")


class Fails(logitwatch.LogitMonitor):
    """Fails in one of its methods, on one rank."""

    def __init__(self, method, rank):
        super().__init__(every_n_steps=1, rows=10**9)
        self.fails_on, self.method = rank, method
        body = getattr(self, method)

        def fail(*args, **kwargs):
            if torch.distributed.get_rank() == self.fails_on:
                raise RuntimeError("boom")
            return body(*args, **kwargs)

        setattr(self, method, fail)


def silent_step(module, batch, stage):
    """On the second rank nothing is to be seen."""
    if module.trainer.global_rank == 0:
        return cross_entropy_step(module, batch, stage)
    return module.net(batch[0]).square().mean()


def nan_step(module, batch, stage):
    logits = module.net(batch[0])
    if module.trainer.global_rank == 1:
        logitwatch.observe(torch.full_like(logits, torch.nan), batch[1])
    return F.cross_entropy(logits, batch[1])


def fit(folder, name, monitors, *, step=cross_entropy_step, uneven=False, **options):
    """One DDP training of both ranks; what this rank knows of it."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else None
    strategy = L.strategies.DDPStrategy(process_group_backend="gloo", find_unused_parameters=False)
    options = {"max_epochs": 2, "log_every_n_steps": 2} | options
    t = trainer(
        L,
        monitors,
        folder=f"{folder}/{name}",
        strategy=strategy,
        devices=RANKS,
        use_distributed_sampler=False,
        **options,
    )
    subject = model(L, step)
    rank = t.global_rank
    val = loader(16 * (5 if uneven and rank == 0 else 2), start=400 + 100 * rank)
    with Collectives() as collectives:
        t.fit(subject, loader(96, start=100 * rank), val)
    return {
        "weights": [p.detach().clone() for p in subject.parameters()],
        "metrics": {key: value.item() for key, value in t.callback_metrics.items()},
        "ours": collectives.ours(),
        "faults": monitors[0].faults if monitors else 0,
        "steps": t.global_step,
        "finished": t.state.finished,
    }


def watch():
    return logitwatch.watch(every_n_steps=1, rows=10**9)


def in_trouble(rank, folder):
    results = {"alone": fit(folder, "alone", []), "clean": fit(folder, "clean", watch())}
    for method in ("summary", "readings", "empty", "rows_in"):
        results[method] = fit(folder, method, [Fails(method, 1), logitwatch.CalibrationMonitor(every_n_steps=1)])
    results["silent"] = fit(folder, "silent", watch(), step=silent_step)
    results["silent alone"] = fit(folder, "silent alone", [], step=silent_step)
    results["nan"] = fit(folder, "nan", watch(), step=nan_step)
    results["uneven"] = fit(folder, "uneven", watch(), uneven=True)
    results["uneven alone"] = fit(folder, "uneven alone", [], uneven=True)
    results["chosen"] = fit(folder, "chosen", logitwatch.watch(), max_epochs=8, log_every_n_steps=5)
    for seed in range(20):
        with ChaosCallback(seed, p=0.25) as chaos:  # each rank has faults of its own
            results[f"chaos {seed}"] = fit(folder, f"chaos {seed}", [*watch(), logitwatch.Recalibrator()]) | {
                "injected": chaos.total
            }
    return results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, on_ranks(in_trouble, RANKS, folder)


WATCHED = [
    *("clean", "summary", "readings", "empty", "rows_in", "nan"),
    *(f"chaos {seed}" for seed in range(20)),
]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one["weights"], other["weights"], strict=True))


@pytest.mark.parametrize("name", WATCHED)
def test_every_run_ends_with_the_weights_of_the_run_without_monitors(run, name):
    _, ranks = run
    for rank in ranks:
        assert rank[name]["finished"]
        assert rank[name]["steps"] == 12
        assert same(rank[name], rank["alone"])


@pytest.mark.parametrize("name", ["silent", "uneven"])
def test_a_silent_rank_and_uneven_validation_change_nothing(run, name):
    _, ranks = run
    assert all(rank[name]["finished"] and same(rank[name], rank[f"{name} alone"]) for rank in ranks)


@pytest.mark.parametrize("name", [*WATCHED, "silent", "uneven", "chosen"])
def test_both_ranks_call_the_same_collectives_in_the_same_order(run, name):
    _, (one, other) = run
    assert one[name]["ours"] == other[name]["ours"]
    assert one[name]["ours"]


def test_a_report_is_one_sum_and_one_max_and_nothing_else_is_communicated(run):
    folder, ranks = run
    reports = len(scalars(folder / "clean")["logitwatch/faults"]) + 2  # of training, and of two validations
    operators = [operator.rpartition(".")[2] for _, _, operator in ranks[0]["clean"]["ours"]]
    # Once in a run the ranks agree on what can be merged, and on a cadence that is chosen.
    assert operators == ["MAX", *["SUM", "MAX"] * reports]
    agreements = [shape for _, shape, _ in ranks[0]["chosen"]["ours"] if shape[1] == "torch.int64"]
    assert agreements == [((6,), "torch.int64"), ((2,), "torch.int64")]


@pytest.mark.parametrize("method", ["summary", "readings", "empty", "rows_in"])
def test_a_fault_of_one_rank_is_counted_there_and_reported_by_the_other(run, method):
    folder, ranks = run
    assert ranks[0][method]["faults"] == 0
    assert ranks[1][method]["faults"] >= 1
    if method in ("summary", "readings"):
        assert ranks[1][method]["faults"] == 3
        assert last(folder / method)["logitwatch/faults"] == 3
    assert last(folder / method)["calibration/val/accuracy"] == last(folder / "clean")["calibration/val/accuracy"]


def test_what_the_other_rank_saw_is_still_reported(run):
    folder, _ = run
    # The second rank failed in its summaries; of the first every row of both validations is there.
    assert [rows for _, rows in scalars(folder / "summary")["logits/val/rows"]] == [32, 32]
    assert [rows for _, rows in scalars(folder / "clean")["logits/val/rows"]] == [64, 64]
    assert sum(rows for _, rows in scalars(folder / "silent")["logits/train/rows"]) == 2 * 96
    assert [rows for _, rows in scalars(folder / "uneven")["logits/val/rows"]] == [112, 112]


def test_rows_that_are_not_finite_on_one_rank_are_counted(run):
    folder, _ = run
    reported = scalars(folder / "nan")
    assert sum(n for _, n in reported["logits/train/nonfinite"]) == 2 * 96
    assert sum(n for _, n in reported["logits/train/rows"]) == 4 * 96


@pytest.mark.parametrize("seed", range(20))
def test_every_injected_fault_is_counted(run, seed):
    _, ranks = run
    for rank in ranks:
        assert rank[f"chaos {seed}"]["faults"] == rank[f"chaos {seed}"]["injected"] > 0


def test_both_ranks_monitor_the_same_bits(run):
    _, (one, other) = run
    for name in ("clean", "silent", "nan", "uneven"):
        assert one[name]["metrics"] == other[name]["metrics"]
        assert "logits/val/max" in one[name]["metrics"]
