"""Law 9: save at any step, resume, same numbers; what is saved is plain and does not grow."""

import pytest
import torch
from end_to_end.recomputed import scalars
from helpers.models import loader, model, namespace, trainer

import logitwatch
from logitwatch.callbacks.cadence import Cadence
from logitwatch.capture.observation import Observation
from logitwatch.states.protocol import pack

L = namespace("pytorch_lightning")


class Resumable:
    """Batches that go on where a checkpoint left them."""

    def __init__(self, batches):
        self.batches, self.position = list(batches), 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        while self.position < len(self.batches):
            self.position += 1
            yield self.batches[self.position - 1]
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def report_numbers(folder):
    """What a run reported of the logits of its training steps."""
    return {
        tag: values
        for tag, values in scalars(folder).items()
        if tag.startswith(("logits/train/", "calibration/train/"))
    }


def fit(folder, monitors, *, steps, resume=None, save=None, batches=40):
    """Train to a step on unshuffled digits; ``save`` writes a checkpoint on the way, in the middle of an epoch."""

    class Saves(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if save is not None and trainer.global_step == save[0]:
                trainer.save_checkpoint(save[1])

    options = {"folder": folder, "max_steps": steps, "max_epochs": -1, "log_every_n_steps": 10}
    t = trainer(L, [*monitors, Saves()], **options)
    t.fit(model(L), Resumable(loader(16 * batches)), ckpt_path=resume)
    return t


@pytest.mark.parametrize(
    "how", [{"every_n_steps": 3, "rows": 10**9}, {"every_n_steps": 3, "rows": 5}], ids=["all rows", "sampled"]
)
@pytest.mark.parametrize("stop", [7, 10, 13, 25])
def test_a_resumed_run_reports_what_the_whole_run_reports(how, stop, tmp_path):
    checkpoint = tmp_path / "saved.ckpt"
    fit(tmp_path / "whole", logitwatch.watch(**how), steps=36, save=(stop, checkpoint))
    t = fit(tmp_path / "rest", logitwatch.watch(**how), steps=36, resume=checkpoint)
    assert t.global_step == 36
    whole, rest = report_numbers(tmp_path / "whole"), report_numbers(tmp_path / "rest")
    assert rest
    for tag, values in rest.items():
        assert values == [(step, value) for step, value in whole[tag] if step >= stop], tag


def test_a_chosen_cadence_is_saved_and_goes_on(tmp_path):
    checkpoint = tmp_path / "saved.ckpt"
    monitors = logitwatch.watch()
    seen = []

    class Keeps(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append(monitors[0].state_dict()["cadence"])

    fit(tmp_path / "whole", [*monitors, Keeps()], steps=40, save=(38, checkpoint))
    chosen = torch.load(checkpoint, weights_only=True)["callbacks"][monitors[0].state_key]["cadence"]
    assert chosen["every_n_steps"] is not None
    monitors = logitwatch.watch()
    seen.clear()
    fit(tmp_path / "rest", [*monitors, Keeps()], steps=45, resume=checkpoint, batches=50)
    names = ("every_n_steps", "rows", "report_every")
    assert {name: seen[0][name] for name in names} == {name: chosen[name] for name in names}
    assert "logitwatch/cadence" not in scalars(tmp_path / "rest")


def test_a_cadence_set_by_hand_wins_over_the_saved_one(tmp_path):
    checkpoint = tmp_path / "saved.ckpt"
    fit(tmp_path / "whole", logitwatch.watch(every_n_steps=5, rows=10**9), steps=12, save=(12, checkpoint))
    monitors = logitwatch.watch(every_n_steps=1, rows=10**9)
    fit(tmp_path / "rest", monitors, steps=22, resume=checkpoint)
    # The saved window had steps 10 and what followed; every step from 12 on is looked at.
    assert sum(value for _, value in scalars(tmp_path / "rest")["logits/train/rows"]) >= 160


@pytest.mark.parametrize("stop", [2, 12])
def test_a_checkpoint_holds_plain_tensors_and_numbers(stop, tmp_path):
    checkpoint = tmp_path / "saved.ckpt"
    monitors = logitwatch.watch(every_n_steps=1)
    fit(None, monitors, steps=stop, save=(stop, checkpoint))
    saved = torch.load(checkpoint, weights_only=True)["callbacks"]
    assert {monitor.state_key for monitor in monitors} <= set(saved)
    again = logitwatch.LogitMonitor(every_n_steps=1)
    again.load_state_dict(saved[monitors[0].state_key])
    torch.testing.assert_close(again.saved, saved[monitors[0].state_key])


def test_a_checkpoint_written_after_the_run_still_holds_the_cadence(tmp_path):
    checkpoint = tmp_path / "saved.ckpt"
    monitors = logitwatch.watch(every_n_steps=3)
    t = fit(None, monitors, steps=12)
    t.save_checkpoint(checkpoint)
    saved = torch.load(checkpoint, weights_only=True)["callbacks"][monitors[0].state_key]
    assert saved["cadence"]["every_n_steps"] == 3
    # A validation in between looks at nothing of the training.
    t.validate(t.model, loader(32), verbose=False)
    t.save_checkpoint(checkpoint)
    again = torch.load(checkpoint, weights_only=True)["callbacks"][monitors[0].state_key]
    torch.testing.assert_close(again, saved, rtol=0, atol=0)


def test_a_checkpoint_saved_before_the_first_step_passes_on_what_was_loaded(tmp_path):
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    fit(None, logitwatch.watch(every_n_steps=3), steps=12, save=(11, first))

    class SavesAtOnce(L.Callback):
        def on_train_start(self, trainer, module):
            trainer.save_checkpoint(second)

    monitors = logitwatch.watch(every_n_steps=3)
    fit(None, [*monitors, SavesAtOnce()], steps=13, resume=first)
    key = monitors[0].state_key
    one, other = (torch.load(path, weights_only=True)["callbacks"][key] for path in (first, second))
    assert one["cadence"] == other["cadence"]
    assert torch.equal(one["window"]["sums"], other["window"]["sums"])


def test_state_of_an_unknown_schema_is_left_alone_with_a_warning(tmp_path, caplog):
    checkpoint = tmp_path / "saved.ckpt"
    fit(None, logitwatch.watch(every_n_steps=1), steps=5, save=(5, checkpoint))
    state = torch.load(checkpoint, weights_only=True)
    for saved in state["callbacks"].values():
        if "window" in saved:
            saved["window"]["schema"] = 999
    torch.save(state, checkpoint)
    t = fit(tmp_path / "rest", logitwatch.watch(every_n_steps=1), steps=8, resume=checkpoint)
    assert t.global_step == 8
    assert any("starting afresh" in record.getMessage() for record in caplog.records)


def test_only_one_rank_takes_up_the_saved_window():
    # A checkpoint holds the window of rank 0: taken up by every rank, its rows would be counted once for each.
    from logitwatch.callbacks.session import Session

    monitor = logitwatch.LogitMonitor(every_n_steps=1)
    monitor.saved = saved_window(monitor)

    class Rank:
        global_step, log_every_n_steps, sanity_checking, loggers = 0, 50, False, ()
        is_global_zero, callbacks = False, (monitor,)

    subject = model(L)
    session = Session.join(Rank(), subject, monitor)
    try:
        assert session.wants("train", (), {}) is not None
        assert "sums" not in session.saved(monitor)["window"]
    finally:
        session.close()


def saved_window(monitor):
    from logitwatch.callbacks.windows import Windows

    windows = Windows()
    z, y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
    seen = Observation.of(z, y)
    windows.add(monitor, "train", 0, monitor.summary(seen, seen, None, histograms=True))
    return {"cadence": Cadence(every_n_steps=1).state_dict(), "window": windows.saved(monitor)}


@pytest.mark.parametrize(
    "monitor", [logitwatch.LogitMonitor(), logitwatch.CalibrationMonitor()], ids=lambda m: type(m).__name__
)
def test_the_state_of_a_monitor_has_one_size_after_ten_and_after_ten_thousand_looks(monitor):
    generator = torch.Generator().manual_seed(0)
    window, sizes = monitor.empty(torch.device("cpu")), {}
    seen = [
        Observation.of(10.0**scale * torch.randn(4, 5, generator=generator), torch.arange(4))
        for scale in (-30, -3, 0, 1, 3, 30)
    ]
    looks = [monitor.summary(each, each, None, histograms=True) for each in seen]
    for count in range(1, 10_001):
        window = window.merge(looks[count % len(looks)])
        if count in (10, 10_000):
            sizes[count] = sum(part.numel() * part.element_size() for part in pack(window))
    assert sizes[10] == sizes[10_000] > 0
    assert monitor.rows_in(window) == 40_000


def test_what_a_checkpoint_holds_does_not_grow_with_the_steps(tmp_path):
    sizes = []
    for steps in (2, 30):
        path = tmp_path / f"{steps}.ckpt"
        fit(None, logitwatch.watch(every_n_steps=1), steps=steps, save=(steps, path))
        states = torch.load(path, weights_only=True)["callbacks"]
        sizes.append({key: state["window"]["sums"].numel() for key, state in states.items() if "logitwatch" in key})
    assert sizes[0] == sizes[1]
    assert len(sizes[0]) == 3
