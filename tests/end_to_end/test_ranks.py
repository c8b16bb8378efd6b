"""Two processes train one model: what is reported is of the rows of both, and both know it."""

import pytest
from end_to_end.recomputed import expected_calibration, expected_logits, joined, last, records
from helpers.models import loader, model, namespace, trainer
from helpers.ranks import on_ranks

import logitwatch

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
RANKS = 2


def rank_main(rank, folder):
    lightning = namespace("pytorch_lightning")
    strategy = lightning.strategies.DDPStrategy(process_group_backend="gloo")
    monitors = [
        logitwatch.LogitMonitor(every_n_steps=1, rows=10**9, on_fault="raise"),
        logitwatch.CalibrationMonitor(every_n_steps=1, rows=10**9, on_fault="raise"),
    ]
    options = {"strategy": strategy, "devices": RANKS, "use_distributed_sampler": False, "log_every_n_steps": 1000}
    t = trainer(lightning, monitors, folder=folder, **options)
    subject = model(lightning)
    # The second rank has fewer rows to train on and to validate on. Lightning wants a batch in every loader.
    train = loader(64 if rank == 0 else 48, 16 if rank == 0 else 12, start=100 * rank)
    val = [
        loader(32 if rank == 0 else 21, start=300 + 100 * rank),
        loader(16 if rank == 0 else 1, start=600 + 100 * rank),
    ]
    t.fit(subject, train, val)
    metrics = {name: value.item() for name, value in t.callback_metrics.items()}
    return {"recorded": subject.recorded, "metrics": metrics}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, on_ranks(rank_main, RANKS, folder)


def test_the_training_window_is_of_both(run):
    folder, ranks = run
    z, y = joined([call for rank in ranks for call in rank["recorded"]["train"]])
    reported = last(folder)
    for name, value in expected_logits(z, y).items():
        assert reported[f"logits/train/{name}"] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert reported["logits/train/rows"] == 112


def test_each_validation_loader_is_of_both(run):
    folder, ranks = run
    reported = last(folder)
    first = [call for rank, count in zip(ranks, (2, 2), strict=True) for call in rank["recorded"]["val"][:count]]
    second = [call for rank in ranks for call in rank["recorded"]["val"][2:]]
    for calls, suffix, rows in ((first, "", 53), (second, "/dataloader_idx_1", 17)):
        z, y = joined(calls)
        assert len(z) == rows
        for name, value in expected_calibration(z, y).items():
            assert reported[f"calibration/val/{name}{suffix}"] == pytest.approx(value, rel=1e-5), name


def test_both_ranks_monitor_the_same_bits(run):
    _, ranks = run
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    assert {"calibration/val/ece", "calibration/val/ece/dataloader_idx_1"} <= set(ranks[0]["metrics"])


def test_one_rank_writes(run):
    folder, _ = run
    assert sum(record["kind"] == "header" for record in records(folder)) == 1
