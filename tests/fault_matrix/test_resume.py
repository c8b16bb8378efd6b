"""Cases 43 to 50 of the fault matrix: a run goes on from any checkpoint, whatever it says of the monitors."""

import io

import pytest
import torch
from end_to_end import test_rank_resume as several
from end_to_end.recomputed import last, scalars
from end_to_end.test_resume import Resumable, fit, report_numbers
from helpers.models import loader, model, namespace, trainer
from helpers.ranks import on_ranks

import logitwatch
from logitwatch.callbacks.windows import plain_state
from logitwatch.capture.observation import Observation

L = namespace("pytorch_lightning")
SAVED, STEPS = range(1, 14), 16


def watch(**options):
    return logitwatch.watch(**({"every_n_steps": 1, "rows": 10**9} | options))


class SavesEach(L.Callback):
    """A checkpoint after each step."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def states_of(path):
    return {k: s for k, s in torch.load(path, weights_only=True)["callbacks"].items() if k.startswith("logitwatch")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in epochs of 8 steps with a checkpoint after each of its 16."""
    folder = tmp_path_factory.mktemp("whole")
    monitors = watch(every_n_steps=3, rows=5)
    t = fit(folder / "run", [*monitors, SavesEach(folder)], steps=STEPS, batches=8)
    return folder, list(t.model.parameters())


@pytest.mark.parametrize("step", SAVED)
def test_case_43_saved_after_any_step_a_run_ends_in_the_same_state(step, whole, tmp_path):
    folder, weights = whole
    monitors = watch(every_n_steps=3, rows=5)
    t = fit(
        tmp_path / "run",
        [*monitors, SavesEach(tmp_path)],
        steps=STEPS,
        batches=8,
        resume=folder / f"{step}.ckpt",
    )
    assert all(map(torch.equal, weights, t.model.parameters()))
    expected, found = states_of(folder / f"{STEPS}.ckpt"), states_of(tmp_path / f"{STEPS}.ckpt")
    assert len(found) == 3
    for key, state in found.items():
        torch.testing.assert_close(state["window"], expected[key]["window"], rtol=0, atol=0)
        assert state["cadence"] == expected[key]["cadence"]
    reported = report_numbers(tmp_path / "run")
    assert reported["logits/train/rows"]
    whole_reports = report_numbers(folder / "run")
    for tag, values in reported.items():
        assert values == [(at, value) for at, value in whole_reports[tag] if at >= step], tag


def test_case_44_a_checkpoint_loads_with_weights_only_and_holds_the_windows(whole):
    folder, _ = whole
    for step in range(1, STEPS + 1):
        states = states_of(folder / f"{step}.ckpt")
        assert len(states) == 3
        assert all(set(state) >= {"cadence", "window"} for state in states.values())


def absent(callbacks):
    for key in [key for key in callbacks if key.startswith("logitwatch")]:
        del callbacks[key]


def spoils(change):
    def spoil(callbacks):
        for key, state in callbacks.items():
            if key.startswith("logitwatch"):
                change(state)

    return spoil


def of_another_schema(state):
    state["window"]["schema"] = 1


def of_another_shape(state):
    state["window"]["sums"] = state["window"]["sums"][:-1]


def damaged(state):
    state["window"]["sums"][0] += 1


def of_another_kind(state):
    state["window"] = "a window"


def of_another_kind_altogether(state):
    state.clear()
    state["step"] = 3


SPOILED = {
    "absent": (absent, False),
    "another schema": (spoils(of_another_schema), True),
    "another shape": (spoils(of_another_shape), True),
    "damaged": (spoils(damaged), True),
    "no window": (spoils(of_another_kind), True),
    "something else": (spoils(of_another_kind_altogether), True),
}


@pytest.mark.parametrize(("spoil", "warns"), SPOILED.values(), ids=SPOILED.keys())
def test_case_45_state_that_does_not_fit_is_left_alone_and_the_run_goes_on(spoil, warns, whole, tmp_path, caplog):
    folder, _ = whole
    checkpoint = torch.load(folder / "7.ckpt", weights_only=True)
    spoil(checkpoint["callbacks"])
    torch.save(checkpoint, tmp_path / "spoiled.ckpt")
    t = fit(tmp_path / "run", watch(), steps=9, resume=tmp_path / "spoiled.ckpt")
    assert t.global_step == 9
    said = [r.getMessage() for r in caplog.records if "starting afresh" in r.getMessage()]
    assert bool(said) == warns
    # The steps from 7 on, and none of those the spoiled window is of.
    assert last(tmp_path / "run")["logits/train/rows"] == 2 * 16
    assert last(tmp_path / "run")["logitwatch/faults"] == 0


def test_case_45_state_of_other_numbers_of_classes_or_bins_fits(tmp_path, caplog):
    """A state is as large for any number of classes, and bins are made when it is read."""
    z, y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
    seen = Observation.of(z, y)
    fit(None, watch(), steps=3, save=(3, tmp_path / "saved.ckpt"))
    checkpoint = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    monitors = [
        logitwatch.LogitMonitor(every_n_steps=1),
        logitwatch.CalibrationMonitor(every_n_steps=1, num_bins=7),
        logitwatch.StabilityGuard(every_n_steps=1),
    ]
    for monitor in monitors:
        state = monitor.summary(seen, seen, None, histograms=True)
        checkpoint["callbacks"][monitor.state_key]["window"] = plain_state(state)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    fit(tmp_path / "run", monitors, steps=5, resume=tmp_path / "other.ckpt")
    assert last(tmp_path / "run")["logits/train/rows"] == 4 + 2 * 16
    assert not [r for r in caplog.records if "starting afresh" in r.getMessage()]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # Lightning's, of a callback that is gone
@pytest.mark.parametrize(("before", "after"), [((0, 1), ()), ((0, 1), (1,)), ((), (0, 1)), ((1,), (0, 1))])
def test_case_46_monitors_may_come_and_go_at_a_resume(before, after, tmp_path):
    def chosen(which):
        monitors = watch()
        return [monitors[index] for index in which]

    fit(None, chosen(before), steps=3, save=(3, tmp_path / "saved.ckpt"))
    monitors = chosen(after)
    t = fit(tmp_path / "run", monitors, steps=5, resume=tmp_path / "saved.ckpt")
    assert t.global_step == 5
    assert all(monitor.faults == 0 for monitor in monitors)
    if after == (0, 1):
        assert last(tmp_path / "run")["logits/train/rows"] == 2 * 16  # nothing was saved for this one
    assert ("calibration/train/nll" in (last(tmp_path / "run") if after else {})) == bool(after)


def test_case_47_a_state_that_cannot_be_had_does_not_cost_the_checkpoint(tmp_path):
    class Fails(logitwatch.LogitMonitor):
        def state_dict(self):
            raise RuntimeError("boom")

    def monitors_of():
        return [Fails(every_n_steps=1), logitwatch.CalibrationMonitor(every_n_steps=1)]

    monitors = monitors_of()
    fit(None, monitors, steps=3, save=(3, tmp_path / "saved.ckpt"))
    assert monitors[0].faults >= 1
    states = states_of(tmp_path / "saved.ckpt")
    assert "window" in states[monitors[1].state_key]
    assert fit(None, monitors_of(), steps=5, resume=tmp_path / "saved.ckpt").global_step == 5


@pytest.mark.parametrize("kind", [logitwatch.LogitMonitor, logitwatch.CalibrationMonitor], ids=lambda k: k.__name__)
def test_case_48_a_state_has_as_many_bytes_after_a_thousand_looks_as_after_a_hundred_thousand(kind):
    def size(state):
        file = io.BytesIO()
        torch.save(plain_state(state), file)
        return file.tell()

    monitor, generator = kind(), torch.Generator().manual_seed(0)
    looks = []
    for scale in (-30, -3, 0, 1, 3, 30):
        seen = Observation.of(10.0**scale * torch.randn(4, 5, generator=generator), torch.arange(4))
        looks.append(monitor.summary(seen, seen, None, histograms=True))
    thousand = monitor.empty(torch.device("cpu"))
    for count in range(1000):
        thousand = thousand.merge(looks[count % len(looks)])
    many = thousand
    for _ in range(99):
        many = many.merge(thousand)
    assert (monitor.rows_in(thousand), monitor.rows_in(many)) == (4 * 10**3, 4 * 10**5)
    assert size(thousand) == size(many)


@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_case_49_what_is_replayed_is_in_the_record_once(tmp_path):
    def run(folder, steps, resume=None):
        class Saves(L.Callback):
            def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
                if trainer.global_step == 13 and resume is None:
                    trainer.save_checkpoint(tmp_path / "saved.ckpt")

        logger = L.loggers.CSVLogger(str(folder), name="run", version=0)
        t = trainer(L, [*watch(), Saves()], logger=logger, max_steps=steps, max_epochs=-1, log_every_n_steps=5)
        t.fit(model(L), Resumable(loader(16 * 40)), ckpt_path=resume)

    run(tmp_path / "whole", 31)
    run(tmp_path / "cut", 22)
    run(tmp_path / "cut", 31, tmp_path / "saved.ckpt")
    steps = [at for at, _ in scalars(tmp_path / "cut")["logits/train/rows"]]
    assert steps == sorted(set(steps))
    assert report_numbers(tmp_path / "cut") == report_numbers(tmp_path / "whole")


def on_two(rank, folder, alone):
    how = several.WAYS["all rows"]
    several.fit(f"{folder}/two", how, ranks=2, save={11: f"{folder}/two.ckpt"})
    several.fit(f"{folder}/one to two", how, ranks=2, resume=alone)


@pytest.mark.ranks
@pytest.mark.slow
def test_case_50_another_number_of_ranks_goes_on_with_the_merged_totals(tmp_path):
    how, alone = several.WAYS["all rows"], tmp_path / "alone.ckpt"
    several.fit(tmp_path / "alone", how, ranks=1, save={11: alone})
    on_ranks(on_two, 2, tmp_path, alone)
    several.fit(tmp_path / "two to one", how, ranks=1, resume=tmp_path / "two.ckpt")
    # Looks at 0, 3, 6, ... are reported at 6 and 12: at 11 that at 9 is open, of the ranks there were.
    (first, *_), (other, *_) = (scalars(tmp_path / run)["logits/train/rows"] for run in ("one to two", "two to one"))
    assert first == (12, 16 + 2 * 16)
    assert other == (12, 2 * 16 + 16)
