from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from helpers.dtensors import shards as kinds
from helpers.dtensors import spread
from helpers.ranks import Collectives, on_ranks
from torch import nn

from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.callbacks.split_windows import TRAINING_ROWS, SplitWindows
from logitwatch.callbacks.windows import Windows
from logitwatch.capture.sharding import locate
from logitwatch.capture.split_rows import split_rows
from logitwatch.states.calibration_sketch import CalibrationSketch

RANKS, CLASSES, ROWS = 2, 6, 300
CPU = torch.device("cpu")


def batch(look):
    generator = torch.Generator().manual_seed(look)
    return 3 * torch.randn(ROWS // 2, CLASSES, generator=generator), torch.randint(
        CLASSES, (ROWS // 2,), generator=generator
    )


def mesh_and_module():
    """A mesh of all ranks and a module with a parameter that is spread over it."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (RANKS,))
    module = nn.Module()
    module.weight = nn.Parameter(spread(torch.zeros(RANKS, 2), mesh, [kinds()[0](0)]))
    return mesh, module


def shards(look, mesh):
    z, y = batch(look)
    shard, _, _ = kinds()
    return split_rows(locate(spread(z, mesh, [shard(1)]), y))


def window_main(rank, folder):
    """Two looks that overflow the sample; three reports: as gathered, as kept by the first rank, and cleared."""
    dist.init_process_group("gloo")
    mesh, module = mesh_and_module()
    monitors = [LogitMonitor(), CalibrationMonitor()]
    faults = Faults()
    windows = Windows(faults, module)
    for look in range(2):
        grown = windows.split.add(shards(look, mesh), "train", 0, None, windows.split.number(look))
    found = []
    with Collectives() as called:
        for _ in range(2):
            states, _ = windows.merged(monitors, "train", 1, CPU)
            found.append([states[monitor, 0] for monitor in monitors])
        for monitor in monitors:
            windows.clear(monitor, "train")
        states, _ = windows.merged(monitors, "train", 1, CPU)
        found.append([states[monitor, 0] for monitor in monitors])
    return {"found": found, "grown": grown, "faults": faults.count, "collectives": called.ours()}


def missed_main(rank, folder):
    """The second rank misses the first of two looks; a report later both are in step again."""
    dist.init_process_group("gloo")
    mesh, module = mesh_and_module()
    monitors = [LogitMonitor()]
    faults = Faults()
    windows = Windows(faults, module)
    seen = []
    for report in range(2):
        for look in range(2):
            number = windows.split.number(2 * report + look)
            if rank == 0 or report or look:
                windows.split.add(shards(look, mesh), "val", 0, None, number)
        states, _ = windows.merged(monitors, "val", 1, CPU)
        seen.append((states[monitors[0], 0].counted.item(), faults.count))
        windows.clear(monitors[0], "val")
    return seen


@pytest.mark.ranks
def test_a_sample_of_split_rows_is_put_together_and_the_counts_are_of_all(tmp_path):
    z, y = map(torch.cat, zip(batch(0), batch(1), strict=True))
    for rank in on_ranks(window_main, RANKS, tmp_path):
        (summary, calibration), kept, cleared = rank["found"]
        sketch = calibration.sketch
        assert summary.seen == ROWS
        assert summary.extrema.maximum.item() == z.max()
        assert sketch.count == summary.counted == TRAINING_ROWS
        assert rank["grown"] == TRAINING_ROWS - ROWS // 2
        # A sample of 256 of 300 rows: its mean is nearer than a tenth of what it may be at all.
        assert sketch.nll().item() == pytest.approx(nn.functional.cross_entropy(z, y).item(), rel=0.1)
        assert [kept[0].seen, kept[1].sketch.count] == [ROWS, TRAINING_ROWS]
        assert kept[1].sketch.nll() == sketch.nll()
        assert [cleared[0].seen, cleared[1].sketch.count] == [0, 0]
        assert rank["faults"] == 0


@pytest.mark.ranks
def test_ranks_ask_for_split_rows_once_and_reduce_them_with_the_rest(tmp_path):
    one, other = on_ranks(window_main, RANKS, tmp_path)
    assert one["collectives"] == other["collectives"]
    assert len(one["collectives"]) == 2 + 3 * 2  # which states merge, who has split rows; a SUM and a MAX a report


@pytest.mark.ranks
def test_rows_only_one_rank_kept_are_counted_and_the_next_window_is_whole(tmp_path):
    for seen in on_ranks(missed_main, RANKS, tmp_path):
        (first, faults), (second, later) = seen
        assert (first, faults) == (ROWS // 2, 1)
        assert (second, later) == (ROWS, 1)


def test_split_rows_of_a_module_without_spread_parameters_are_a_fault_with_a_remedy(caplog):
    faults = Faults()
    split = SplitWindows(nn.Linear(2, 2), faults)
    split._states["val", 0, None] = object()
    assert split.on_their_way([LogitMonitor()], "val", 1, CPU) == []
    assert faults.count == 1
    assert "logitwatch.observe(logits[:64].full_tensor(), targets[:64])" in caplog.text


def test_nobody_is_asked_where_nothing_is_spread():
    windows, monitor = Windows(Faults(), nn.Linear(2, 2)), CalibrationMonitor()
    seen = replace(monitor.empty(CPU), sketch=CalibrationSketch.of(*batch(0)))
    windows.add(monitor, "val", 0, seen)
    states, rest = windows.merged([monitor], "val", 1, CPU)
    assert (states[monitor, 0].sketch.count, rest) == (ROWS // 2, [])


def test_the_numbers_of_looks_begin_anew_with_each_window():
    split = SplitWindows(nn.Linear(2, 2), Faults())
    first = [split.number(5), split.number(5)]
    assert len(set(first)) == 2
    split.clear("train")
    assert split.number(5) == first[0]
    assert split.number(6) not in first
