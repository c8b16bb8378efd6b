"""Cases 51 to 58 of the fault matrix, and case 21: several ranks know what one that saw everything would know."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from end_to_end.recomputed import expected_calibration, expected_logits, joined, last, scalars
from end_to_end.test_rank_faults import Fails, fit, nan_step, silent_step, watch
from helpers.models import loader, namespace, net, trainer
from helpers.ranks import Collectives, on_ranks

import logitwatch
from logitwatch.capture.observation import Observation

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
L = namespace("pytorch_lightning")
RANKS = 2


class Sharded(L.LightningModule):
    """The digits model with its weights spread over the ranks, and the logits it made."""

    def __init__(self):
        super().__init__()
        self.net, self.recorded = net(), []

    def configure_model(self):
        from torch.distributed.fsdp import fully_shard

        fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        logits = self.net(batch[0])
        self.recorded.append((logits.detach().clone(), batch[1]))
        return torch.nn.functional.cross_entropy(logits, batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fully_sharded(rank, folder):
    strategy = L.strategies.ModelParallelStrategy(data_parallel_size=RANKS, tensor_parallel_size=1)
    subject = Sharded()
    monitors = logitwatch.watch(every_n_steps=1, rows=10**9)
    options = {"strategy": strategy, "devices": RANKS, "log_every_n_steps": 1000, "use_distributed_sampler": False}
    t = trainer(L, monitors, folder=f"{folder}/fsdp", **options)
    with Collectives() as collectives:
        t.fit(subject, loader(64, start=100 * rank))
    return {"recorded": subject.recorded, "ours": collectives.ours(), "faults": monitors[0].faults}


def spread(rank):
    """What a rank reads of logits that are spread in every way, without a collective."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.debug import CommDebugMode

    mesh = init_device_mesh("cpu", (RANKS,))
    z, y = torch.arange(60.0).view(6, 10), torch.arange(6)
    found = {}
    for name, placement in {"rows": Shard(0), "all": Replicate(), "classes": Shard(1)}.items():
        logits = distribute_tensor(z, mesh, [placement])
        targets = distribute_tensor(y, mesh, [placement if name == "rows" else Replicate()])
        with CommDebugMode() as communication:
            try:
                seen = Observation.of(logits, targets)
                found[name] = seen.logits.clone(), seen.targets.clone(), seen.nll.shape
            except ValueError as error:
                found[name] = str(error)
        found[f"{name} collectives"] = communication.get_total_counts()
    return found


def both_ranks(rank, folder):
    return {
        "clean": fit(folder, "clean", watch()),
        "uneven": fit(folder, "uneven", watch(), uneven=True),
        "silent": fit(folder, "silent", watch(), step=silent_step),
        "nan": fit(folder, "nan", watch(), step=nan_step),
        "fault": fit(folder, "fault", [Fails("summary", 1), *watch()[1:]]),
        "spread": spread(rank),
        "fsdp": fully_sharded(rank, folder),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, on_ranks(both_ranks, RANKS, folder)


def test_case_21_spread_logits_are_the_rows_a_rank_holds_each_counted_once(run):
    _, ranks = run
    one, other = (rank["spread"] for rank in ranks)
    z, y = torch.arange(60.0).view(6, 10), torch.arange(6)
    assert torch.equal(torch.cat((one["rows"][0], other["rows"][0])), z)
    assert torch.equal(torch.cat((one["rows"][1], other["rows"][1])), y)
    assert torch.equal(one["all"][0], z)
    assert len(other["all"][0]) == len(other["all"][1]) == 0
    for found in (one, other):
        assert "logits must have whole rows on each rank, got classes on axis 1" in found["classes"]
        assert {found[f"{name} collectives"] for name in ("rows", "all", "classes")} == {0}


@pytest.mark.parametrize("start", ["ddp", "ddp_fork", "ddp_spawn"])
def test_case_51_two_ranks_report_the_rows_of_both_however_they_are_started(start, tmp_path):
    script = Path(__file__).parents[1] / "helpers/ddp_script.py"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(script.parents[1]), os.environ.get("PYTHONPATH", "")])
    }
    subprocess.run([sys.executable, str(script), start, str(tmp_path)], check=True, timeout=240, env=environment)
    reported = last(tmp_path)
    assert reported["logits/train/rows"] == 64
    assert reported["logits/val/rows"] == 48
    assert reported["logitwatch/faults"] == 0


def test_case_52_uneven_validation_is_counted_row_by_row(run):
    folder, _ = run
    assert [rows for _, rows in scalars(folder / "uneven")["logits/val/rows"]] == [112, 112]


def test_case_53_a_rank_without_rows_takes_part(run):
    folder, (one, other) = run
    assert one["silent"]["ours"] == other["silent"]["ours"]
    assert sum(rows for _, rows in scalars(folder / "silent")["logits/train/rows"]) == 2 * 96


def test_case_54_a_rank_with_nothing_but_nan_is_counted_as_nonfinite(run):
    folder, _ = run
    assert sum(n for _, n in scalars(folder / "nan")["logits/train/nonfinite"]) == 2 * 96
    assert last(folder / "nan")["logits/train/entropy"] > 0


def test_case_55_a_fault_on_one_rank_leaves_nobody_waiting(run):
    folder, ranks = run
    assert all(rank["fault"]["finished"] for rank in ranks)
    assert last(folder / "fault")["logitwatch/faults"] == 3


def test_case_56_another_number_of_batches_on_a_rank_is_no_imbalance_of_ours(run):
    _, (one, other) = run
    assert one["uneven"]["ours"] == other["uneven"]["ours"]


def test_case_57_the_order_of_the_ranks_is_of_no_account(run):
    _, (one, other) = run
    assert one["clean"]["metrics"] == other["clean"]["metrics"]


def test_case_58_weights_spread_over_the_ranks_change_nothing(run):
    folder, ranks = run
    z, y = joined([call for rank in ranks for call in rank["fsdp"]["recorded"]])
    reported = last(folder / "fsdp")
    assert reported["logits/train/rows"] == len(z) == 128
    for name, value in expected_logits(z, y).items():
        assert reported[f"logits/train/{name}"] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for name, value in expected_calibration(z, y).items():
        assert reported[f"calibration/train/{name}"] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert ranks[0]["fsdp"]["ours"] == ranks[1]["fsdp"]["ours"]
    assert [rank["fsdp"]["faults"] for rank in ranks] == [0, 0]
