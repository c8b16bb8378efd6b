"""Lightning's `ModelParallelStrategy` on a CPU: sharded parameters (FSDP2), and a head whose classes are split."""

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import expected_calibration, expected_logits, joined, last, records
from helpers.models import CLASSES, loader, model, namespace, net, trainer
from helpers.ranks import Collectives, on_ranks

import logitwatch

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
RANKS = 2
EVERY_ROW = {"every_n_steps": 1, "rows": 10**9}


def fit(lightning, subject, callbacks, folder, loaders, **sizes):
    """Train on a mesh of so many ranks; Lightning calls ``subject.configure_model`` for the model to be spread."""
    strategy = lightning.strategies.ModelParallelStrategy(process_group_backend="gloo", **sizes)
    options = {"strategy": strategy, "devices": RANKS, "use_distributed_sampler": False, "log_every_n_steps": 1000}
    t = trainer(lightning, callbacks, folder=folder, **options)
    t.fit(subject, *loaders)
    return {name: value.item() for name, value in t.callback_metrics.items()}


def fsdp_main(rank, folder):
    """Every parameter is sharded over both ranks, each of which has rows of its own."""
    from torch.distributed.fsdp import fully_shard

    lightning = namespace("pytorch_lightning")
    spread = set()

    def configure_model(self):
        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])
        spread.update(type(p).__name__ for p in self.parameters())

    subject = with_configure_model(model(lightning), configure_model)
    # The second rank has fewer rows to train on and to validate on. Lightning wants a batch in every loader.
    loaders = (
        loader(64 if rank == 0 else 48, 16 if rank == 0 else 12, start=100 * rank),
        loader(32 if rank == 0 else 21, start=300 + 100 * rank),
    )
    monitors = logitwatch.watch(**EVERY_ROW)
    with Collectives() as called:
        metrics = fit(lightning, subject, monitors, folder, loaders, data_parallel_size=RANKS, tensor_parallel_size=1)
    return {"recorded": subject.recorded, "metrics": metrics, "spread": spread, "collectives": called.ours()}


def tensor_parallel_main(rank, folder, monitors):
    """Both ranks see the same rows, and each has half of the classes of every one of them.

    Logits reach the criterion as a DTensor; `recorded` has them whole, on each rank.
    """
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, loss_parallel, parallelize_module

    lightning = namespace("pytorch_lightning")
    placements = set()

    def configure_model(self):
        plan = {
            "0": ColwiseParallel(output_layouts=Replicate()),
            "3": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False),
        }
        parallelize_module(self.net, self.device_mesh["tensor_parallel"], plan)

    def step(module, batch, stage):
        x, y = batch
        logits = module.net(x)
        placements.add(str(logits.placements))
        module.record(stage, logits.detach().full_tensor(), y)
        with loss_parallel():
            loss = F.cross_entropy(logits, y)
            if stage == "train":
                # Backward of the parallel loss belongs into the context, and Lightning's comes after the step.
                optimizer = module.optimizers()
                optimizer.zero_grad()
                module.manual_backward(loss)
                optimizer.step()
        module.log(f"{stage}_loss", loss.full_tensor().detach(), on_step=False, on_epoch=True)

    subject = with_configure_model(model(lightning, step, manual=True, network=net(scale=4.0)), configure_model)
    loaders = loader(64, 16), loader(37, 16, start=300)
    with Collectives() as called:
        metrics = fit(lightning, subject, monitors(), folder, loaders, data_parallel_size=1, tensor_parallel_size=RANKS)
    return {
        "recorded": subject.recorded,
        "metrics": metrics,
        "placements": placements,
        "collectives": called.ours(),
    }


def with_configure_model(subject, configure_model):
    """The same module, of a class with the hook: Lightning asks the class."""
    subject.__class__ = type("Parallel", (type(subject),), {"configure_model": configure_model})
    return subject


def nobody():
    return []


def suite():
    return logitwatch.watch(**EVERY_ROW)


@pytest.fixture(scope="module")
def fsdp(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    return folder, on_ranks(fsdp_main, RANKS, folder)


def test_parameters_are_spread_and_logits_are_not(fsdp):
    _, ranks = fsdp
    assert [rank["spread"] for rank in ranks] == [{"DTensor"}] * RANKS
    assert all(type(z) is torch.Tensor for rank in ranks for z, _ in rank["recorded"]["train"])


def test_the_training_window_of_sharded_parameters_is_of_both_ranks(fsdp):
    folder, ranks = fsdp
    z, y = joined([call for rank in ranks for call in rank["recorded"]["train"]])
    reported = last(folder)
    for name, value in expected_logits(z, y).items():
        assert reported[f"logits/train/{name}"] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert reported["logits/train/rows"] == 112
    assert reported["logitwatch/faults"] == 0


def test_the_validation_of_sharded_parameters_is_of_both_ranks(fsdp):
    folder, ranks = fsdp
    z, y = joined([call for rank in ranks for call in rank["recorded"]["val"]])
    reported = last(folder)
    assert len(z) == reported["logits/val/rows"] == 53
    for name, value in expected_calibration(z, y).items():
        assert reported[f"calibration/val/{name}"] == pytest.approx(value, rel=1e-5), name


def test_ranks_of_sharded_parameters_know_the_same_bits_and_one_writes(fsdp):
    folder, ranks = fsdp
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    assert ranks[0]["collectives"] == ranks[1]["collectives"]
    assert sum(record["kind"] == "header" for record in records(folder)) == 1


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory):
    return on_ranks(tensor_parallel_main, RANKS, tmp_path_factory.mktemp("unwatched"), nobody)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    return folder, on_ranks(tensor_parallel_main, RANKS, folder, suite)


def test_a_head_with_split_classes_trains(unwatched):
    for rank in unwatched:
        assert rank["placements"] == {"(Shard(dim=1),)"}
        assert [len(z) for z, _ in rank["recorded"]["val"]] == [16, 16, 5]
        assert rank["collectives"] == []
        z, y = joined(rank["recorded"]["val"])
        assert z.shape[1] == CLASSES
        # float32 sums of ten exponentials, in two halves
        assert rank["metrics"]["val_loss"] == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-5)
        for (one, _), (other, _) in zip(rank["recorded"]["train"], unwatched[0]["recorded"]["train"], strict=True):
            assert torch.equal(one, other)
    losses = [F.cross_entropy(z, y).item() for z, y in unwatched[0]["recorded"]["train"]]
    assert losses[-1] < losses[0]


def test_split_classes_train_to_the_same_bits_when_watched(unwatched, watched):
    for mine, theirs in zip(watched[1], unwatched, strict=True):
        for stage in ("train", "val"):
            pairs = zip(mine["recorded"][stage], theirs["recorded"][stage], strict=True)
            assert all(torch.equal(z, other) for (z, _), (other, _) in pairs)
        assert mine["metrics"]["val_loss"] == theirs["metrics"]["val_loss"]


@pytest.mark.parametrize("stage", ["train", "val"])
def test_the_numbers_of_split_classes_are_those_of_the_whole_rows(watched, stage):
    folder, ranks = watched
    z, y = joined(ranks[0]["recorded"][stage])
    reported = last(folder)
    assert reported[f"logits/{stage}/rows"] == len(z)
    for name, value in expected_logits(z, y).items():
        assert reported[f"logits/{stage}/{name}"] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    if stage == "val":  # training has fewer rows than a calibration window wants, until its end
        for name, value in expected_calibration(z, y).items():
            assert reported[f"calibration/{stage}/{name}"] == pytest.approx(value, rel=1e-5), name
    assert reported["logitwatch/faults"] == 0
    assert reported["logitwatch/coverage"] == 1


def test_ranks_with_split_classes_know_the_same_bits_and_ask_alike(watched):
    _, ranks = watched
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    assert ranks[0]["collectives"] == ranks[1]["collectives"]
    assert any(name.startswith("logits/val") for name in ranks[0]["metrics"])


def test_it_is_told_once_that_the_classes_are_split(watched):
    texts = [r["markdown"] for r in records(watched[0]) if str(r.get("tag")).startswith("logitwatch/capture/train")]
    assert len(texts) == 1
    assert "their classes split over ranks" in texts[0]
