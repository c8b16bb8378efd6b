import torch

from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.windows import Windows
from logitwatch.states.calibration_sketch import CalibrationSketch

CPU = torch.device("cpu")


def sketch(rows: int) -> CalibrationSketch:
    logits = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
    return CalibrationSketch.of(logits, torch.zeros(rows, dtype=torch.long))


def test_states_of_one_monitor_stage_and_loader_merge_and_others_stay_apart():
    windows, monitor = Windows(), CalibrationMonitor()
    windows.add(monitor, "val", 0, sketch(3))
    windows.add(monitor, "val", 0, sketch(4))
    windows.add(monitor, "val", 1, sketch(5))
    windows.add(monitor, "train", 0, sketch(6))
    windows.add(monitor, "val", 1, None)
    counts = {loader: int(state.count) for (_, loader), state in windows.merged([monitor], "val", 3, CPU).items()}
    assert counts == {0: 7, 1: 5, 2: 0}


def test_a_cleared_window_begins_anew():
    windows, monitor = Windows(), CalibrationMonitor()
    windows.add(monitor, "train", 0, sketch(3))
    windows.clear(monitor, "train")
    windows.clear(monitor, "train")
    windows.add(monitor, "train", 0, sketch(2))
    assert [int(s.count) for s in windows.merged([monitor], "train", 1, CPU).values()] == [2]


def test_a_saved_window_comes_back_through_a_safe_load_and_goes_on(tmp_path):
    windows, monitor = Windows(), CalibrationMonitor()
    windows.add(monitor, "train", 0, sketch(3))
    torch.save(windows.saved(monitor), tmp_path / "state.pt")
    again = Windows()
    again.restore(monitor, torch.load(tmp_path / "state.pt", weights_only=True), CPU)
    again.add(monitor, "train", 0, sketch(4))
    (state,) = again.merged([monitor], "train", 1, CPU).values()
    assert int(state.count) == 7
    assert state.nll().item() == sketch(3).merge(sketch(4)).nll().item()


def test_a_window_of_another_schema_is_left_alone_with_a_warning(caplog):
    windows, monitor = Windows(), CalibrationMonitor()
    windows.restore(monitor, {"schema": 99, "sums": torch.zeros(1), "maxima": torch.zeros(0)}, CPU)
    assert "99" in caplog.text
    assert [int(s.count) for s in windows.merged([monitor], "train", 1, CPU).values()] == [0]
