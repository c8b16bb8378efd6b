"""What the monitors of one module share, and the order of things in a run: look, merge, reduce, report."""

from __future__ import annotations

import time
from typing import Any

import torch

from logitwatch.callbacks._compat import log_headline
from logitwatch.callbacks.cadence import Cadence
from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.ledger import Ledger
from logitwatch.callbacks.outlet import Outlet
from logitwatch.callbacks.reduction import agreed, world_size
from logitwatch.callbacks.reporter import Reporter
from logitwatch.callbacks.tags import Tags
from logitwatch.callbacks.windows import Windows
from logitwatch.callbacks.witness import Witness
from logitwatch.capture.look import Look
from logitwatch.capture.tap import Tap
from logitwatch.sinks.readings import Reading, Scalars, Text

__all__ = ["Session"]


class Session:
    """One fit, validation, test or prediction of one module, as its monitors see it.

    The tap asks `wants` at the start of each step and hands over what was captured with `receive`; Lightning's hooks
    arrive through `event`. Whatever fails in here is isolated, counted and told once.
    """

    def __init__(self, trainer: Any, module: Any) -> None:
        self.trainer, self.module = trainer, module
        self.monitors: list[Reporter] = []
        self.tap = Tap.of(module)
        self.faults = Faults()
        self.witness = Witness(self.tap)
        self.outlet = Outlet(trainer, self.faults)
        self.windows = Windows()
        self.cadence: Cadence | None = None
        self.ledger = Ledger(self._now)
        self._step, self._step_start = -1, 0.0
        self._undisturbed = False  # whether the step under way is one whose time says what steps cost

    @classmethod
    def join(cls, trainer: Any, module: Any, monitor: Reporter) -> Session:
        """The session of a module, made by the first monitor that asks; the monitor becomes one of its members."""
        session = Tap.of(module).listener
        if not isinstance(session, Session) or session.trainer is not trainer:
            if isinstance(session, Session):
                session.close()
            session = cls(trainer, module)
        if monitor not in session.monitors:
            session.monitors.append(monitor)
        if monitor.on_fault == "raise":
            session.faults.on_fault = "raise"
        with session.faults.isolated("tap"):
            session.tap.attach(session, requested={monitor.source} if monitor.source else set())
        return session

    def wants(self, stage: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Look | None:
        """See `Listener.wants`."""
        try:
            if stage == "train":
                return self._wants_training_step()
            if self.trainer.sanity_checking:
                return None
            look = Look(stage, int(args[2] if len(args) > 2 else kwargs.get("dataloader_idx", 0)))
            look.step = self.trainer.global_step
            return look
        except Exception:
            self.faults.note("cadence")
            return None

    def receive(self, look: Look) -> None:
        """See `Listener.receive`."""
        start = self._now()
        if self.faults.armed("capture"):
            with self.faults.isolated("capture"), torch.no_grad():
                self._absorb(look)
        if look.stage != "train" or self.cadence is None:
            return
        seen = self._now()
        self.cadence.timed_look(seen - start)
        if self.cadence.report(look.step):
            # Not gated by its faults: every rank takes part in every reduction.
            with self.faults.isolated("report"):
                self._report_window(look.step)
            self.cadence.timed_report(self._now() - seen)
            if self.cadence.ready():
                with self.faults.isolated("cadence"):
                    self._freeze(look.step)
        self.ledger.spent(self._now() - start)

    def event(self, monitor: Reporter, name: str, *args: Any) -> None:
        """A Lightning hook of a monitor; acts once for all, at the last of them, or at once when the run is over."""
        if name in ("abort", "close"):
            with self.faults.isolated(name):
                getattr(self, name)()
        elif monitor is self.monitors[-1]:
            with self.faults.isolated(name):
                getattr(self, f"_on_{name}")(*args)

    def abort(self) -> None:
        """An exception ends the run: write what this process knows, without asking other ranks, and let go."""
        try:
            if self.tap.listener is self and self.cadence is not None and world_size() == 1:
                self._report_window(self.trainer.global_step, last=True)
        finally:
            self.close()

    def close(self) -> None:
        """Take off every hook, flush the sinks. Harmless when done already."""
        if self.tap.listener is self:
            self.tap.detach()
        self.outlet.close()

    def saved(self, monitor: Reporter) -> dict[str, Any]:
        """State of a monitor for a checkpoint: plain numbers, strings and tensors. Never fails."""
        state: dict[str, Any] = {}
        if self.cadence is None:  # no step yet: what was loaded is not read either
            return dict(monitor.saved)
        with self.faults.isolated("saving"):
            state["window"] = self.windows.saved(monitor)
            state["cadence"] = self.cadence.state_dict()
            # Generators of two kinds of device do not mix, so their state is kept under the kind.
            state["sampling"] = {self.module.device.type: self.tap.generator(self.module.device).get_state()}
        return state

    def _wants_training_step(self) -> Look | None:
        self.ledger.step()
        step = self.trainer.global_step
        if step < self._step:  # a tuner tried something and put the Trainer back
            self.cadence, self.windows, self.ledger = None, Windows(), Ledger(self._now)
            self._undisturbed = False
        cadence = self.cadence or self._start_cadence()
        if step != self._step:
            if not cadence.frozen:
                now = self._now()
                if self._undisturbed:
                    cadence.timed_step(now - self._step_start)
                self._step_start, self._undisturbed = now, True
            self._step = step
        if not cadence.look(step):
            return None
        self._undisturbed = False
        look = Look("train")
        look.step = step
        return look

    def _start_cadence(self) -> Cadence:
        by_hand = [m.every_n_steps for m in self.monitors if m.every_n_steps is not None]
        rows = [m.rows for m in self.monitors if m.rows is not None]
        self.cadence = Cadence(
            budget=min(m.budget for m in self.monitors),
            every_n_steps=min(by_hand, default=None),
            rows=max(rows, default=None),
            report_every=self.trainer.log_every_n_steps or 50,
        )
        for monitor in self.monitors:
            saved, monitor.saved = monitor.saved, {}
            with self.faults.isolated("resuming"):
                if "cadence" in saved:
                    self.cadence.load_state_dict(saved["cadence"])
                if "window" in saved and self.trainer.is_global_zero:  # it is that of rank 0
                    self.windows.restore(monitor, saved["window"], self.module.device)
            with self.faults.isolated("resuming the sampling"):
                drawn = saved.get("sampling", {}).get(self.module.device.type)
                if drawn is not None:
                    self.tap.generator(self.module.device).set_state(drawn.cpu())
        return self.cadence

    def _freeze(self, step: int) -> None:
        assert self.cadence is not None
        every, rows = agreed(self.cadence.choose(), self.module.device)
        self.cadence.freeze(every, rows, step=step)
        text = (
            f"Looks at every {every} optimizer steps, {rows} rows of each, and reports every "
            f"{self.cadence.report_every}, by a budget of {self.cadence.budget:.1%} of the step time. To keep this "
            f"cadence: `watch(every_n_steps={every}, rows={rows})`."
        )
        self.outlet.write([Text(tag="logitwatch/cadence", step=step, markdown=text)])

    def _absorb(self, look: Look) -> None:
        """Make observations of a look and merge what each monitor makes of them."""
        seen = []
        for call in look.calls(self.tap.requested):
            with self.faults.isolated("capture"):
                seen.append((call, self.tap.observation(look, call)))
        primary = seen[0][1].source if seen else None
        followed = {monitor.source or primary for monitor in self.monitors}
        self.outlet.write(self.witness.testify(look, seen, followed))
        training = self.cadence if look.stage == "train" else None
        histograms = training is None or training.histograms
        rows = sampled = 0
        for call, observation in seen:
            sample = observation if training is None else observation.sample(training.rows)
            if observation.source == primary:
                rows, sampled = rows + observation.num_rows, sampled + sample.num_rows
            terms = (call.lent or {}).get("terms")
            for monitor in self.monitors:
                place = type(monitor).__name__
                if observation.source == (monitor.source or primary) and self.faults.armed(place):
                    with self.faults.isolated(place):
                        state = monitor.summary(observation, sample, terms, histograms=histograms)
                        self.windows.add(monitor, look.stage, look.loader, state)
        if training is not None and rows:
            self.ledger.looked(rows=rows, sampled=sampled)

    def _report_window(self, step: int, *, last: bool = False) -> None:
        """Report the training steps since the last report."""
        assert self.cadence is not None
        self.cadence.reported()
        readings: list[Reading] = []
        for (monitor, _), state in self.windows.merged(self.monitors, "train", 1, self.module.device).items():
            if monitor.rows_in(state) < (1 if last else monitor.fewest_rows):
                continue
            self.windows.clear(monitor, "train")
            if self.faults.armed(type(monitor).__name__):
                with self.faults.isolated(type(monitor).__name__):
                    readings += monitor.readings(state, self._tags(monitor, "train"), step)
        itself = self.ledger.balance()
        itself |= {"logitwatch/faults": self.faults.count, "logitwatch/dropped": self.outlet.dropped}
        self.outlet.write([*readings, Scalars(values=itself, step=step)])

    def _tags(self, monitor: Reporter, stage: str, loader: int = 0) -> Tags:
        """Tags of a monitor; they name its source only where another monitor of its kind follows another one."""
        alone = sum(type(other) is type(monitor) for other in self.monitors) == 1
        return Tags(stage, loader, None if alone else monitor.source)

    def _on_train_start(self) -> None:
        self.ledger = Ledger(self._now)
        self.outlet.open()

    def _on_evaluation_start(self) -> None:
        self.ledger.pause()
        self._undisturbed = False

    def _on_epoch_end(self, stage: str) -> None:
        """Report a whole validation, test or prediction."""
        self.ledger.resume()
        if self.trainer.sanity_checking:
            return
        step, batches = self.trainer.global_step, getattr(self.trainer, f"num_{stage}_batches")
        loaders = len(batches) if isinstance(batches, list) else 1
        readings: list[Reading] = []
        for (monitor, loader), state in self.windows.merged(self.monitors, stage, loaders, self.module.device).items():
            self.windows.clear(monitor, stage, loader)
            rows = monitor.rows_in(state)
            if rows == 0:
                continue
            tags = self._tags(monitor, stage, loader)
            with self.faults.isolated(type(monitor).__name__):
                readings += monitor.readings(state, tags, step)
                if stage != "predict":
                    log_headline(self.module, monitor.headline(state, tags), batch_size=rows)
        self.outlet.write(readings)

    def _on_train_end(self) -> None:
        if self.cadence is not None:
            self._report_window(self.trainer.global_step, last=True)

    def _now(self) -> float:
        """What steps and the suite are timed with: on a CPU the time of this thread, which no other process lengthens.

        On an accelerator the wall clock; while the cadence is being chosen, once the device has done what it was given.
        """
        if self.module.device.type == "cpu":
            return time.thread_time()
        if self.cadence is not None and not self.cadence.frozen:
            torch.accelerator.synchronize()
        return time.perf_counter()
