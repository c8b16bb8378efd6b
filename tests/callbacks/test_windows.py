from dataclasses import replace

import pytest
import torch

from logitwatch.callbacks.calibration_monitor import CalibrationMonitor
from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.logit_monitor import LogitMonitor
from logitwatch.callbacks.windows import Windows, plain_state
from logitwatch.capture.look import Look
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.calibration_summary import CalibrationSummary
from logitwatch.states.extrema import Extrema
from logitwatch.states.logit_summary import LogitSummary

CPU = torch.device("cpu")


def sketch(rows: int) -> CalibrationSummary:
    logits = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
    seen = CalibrationSketch.of(logits, torch.zeros(rows, dtype=torch.long))
    return replace(CalibrationSummary.empty(), sketch=seen)


def test_states_of_one_monitor_stage_and_loader_merge_and_others_stay_apart():
    windows, monitor = Windows(), CalibrationMonitor()
    windows.add(monitor, "val", 0, sketch(3))
    windows.add(monitor, "val", 0, sketch(4))
    windows.add(monitor, "val", 1, sketch(5))
    windows.add(monitor, "train", 0, sketch(6))
    windows.add(monitor, "val", 1, None)
    counts = {
        loader: int(state.sketch.count) for (_, loader), state in windows.merged([monitor], "val", 3, CPU)[0].items()
    }
    assert counts == {0: 7, 1: 5, 2: 0}


def test_a_cleared_window_begins_anew():
    windows, monitor = Windows(), CalibrationMonitor()
    windows.add(monitor, "train", 0, sketch(3))
    windows.clear(monitor, "train")
    windows.clear(monitor, "train")
    windows.add(monitor, "train", 0, sketch(2))
    assert [int(s.sketch.count) for s in windows.merged([monitor], "train", 1, CPU)[0].values()] == [2]


def test_what_a_monitor_makes_of_a_look_is_gathered_and_what_it_raises_is_counted():
    faults = Faults()
    windows, monitor = Windows(faults), CalibrationMonitor()
    look = Look("val", 1)

    def fail():
        raise RuntimeError("a fault of the monitor")

    for make in (lambda: sketch(3), fail, lambda: None, lambda: sketch(4), fail, fail, lambda: sketch(9)):
        windows.gather(monitor, look, make)
    assert faults.count == 3
    # After three faults it is asked no more.
    (_, state) = windows.merged([monitor], "val", 2, CPU)[0].values()
    assert int(state.sketch.count) == 7


def test_a_saved_window_comes_back_through_a_safe_load_and_goes_on(tmp_path):
    windows, monitor = Windows(), CalibrationMonitor()
    windows.add(monitor, "train", 0, sketch(3))
    torch.save(windows.saved(monitor), tmp_path / "state.pt")
    again = Windows()
    again.restore(monitor, torch.load(tmp_path / "state.pt", weights_only=True), CPU)
    again.add(monitor, "train", 0, sketch(4))
    (state,) = again.merged([monitor], "train", 1, CPU)[0].values()
    assert int(state.sketch.count) == 7
    assert state.sketch.nll().item() == sketch(3).merge(sketch(4)).sketch.nll().item()


def saved_window():
    windows, monitor = Windows(), CalibrationMonitor()
    windows.add(monitor, "train", 0, sketch(3))
    return windows.saved(monitor)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda saved: {**saved, "schema": 1}, "expected schema 2, got 1"),
        (lambda saved: [], "expected schema 2, got list"),
        (lambda saved: None, "expected schema 2, got NoneType"),
        (lambda saved: {**saved, "sums": saved["sums"][:-1], "checksum": 0}, "damaged"),
        (lambda saved: plain_state(Extrema.of(torch.ones(2))), "too short"),
        (lambda saved: {key: value for key, value in saved.items() if key != "maxima"}, "maxima"),
        (lambda saved: {**saved, "sums": "three"}, "'str'"),
    ],
    ids=["schema", "list", "nothing", "cut", "another state", "half", "text"],
)
def test_a_window_that_does_not_fit_is_left_alone_with_a_warning(damage, why, caplog):
    windows, monitor = Windows(), CalibrationMonitor()
    windows.restore(monitor, damage(saved_window()), CPU)
    assert "CalibrationMonitor cannot be used, starting afresh" in caplog.text
    assert why in caplog.text
    assert [int(s.sketch.count) for s in windows.merged([monitor], "train", 1, CPU)[0].values()] == [0]


@pytest.mark.parametrize("part", ["sums", "maxima"])
def test_every_flipped_bit_of_a_saved_window_is_noticed(part, caplog):
    windows, monitor, saved = Windows(), LogitMonitor(), plain_state(LogitSummary.empty())
    data = saved[part].numpy().view("uint8")
    places = range(0, data.size, max(1, data.size // 50))
    for place in places:
        data[place] ^= 1 << (place % 8)
        windows.restore(monitor, saved, CPU)
        data[place] ^= 1 << (place % 8)
    assert caplog.text.count("damaged") == len(places)
    windows.restore(monitor, saved, CPU)
    assert caplog.text.count("starting afresh") == len(places)


def test_a_monitor_that_cannot_make_a_state_is_left_out_and_the_others_are_not(caplog):
    class Fails(CalibrationMonitor):
        def empty(self, device):
            raise RuntimeError("boom")

    faults = Faults()
    windows, broken, sound = Windows(faults), Fails(), CalibrationMonitor()
    windows.add(sound, "train", 0, sketch(3))
    merged, (also,) = windows.merged([broken, sound], "train", 1, CPU, also=[(sketch(5), sketch(0))])
    assert [monitor for monitor, _ in merged] == [sound]
    assert (int(merged[sound, 0].sketch.count), int(also.sketch.count), faults.count) == (3, 5, 1)
