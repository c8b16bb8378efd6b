"""What the monitors of one module share: the tap, the cadence, the clock, the sinks and the boundary for faults."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import torch

from logitwatch.callbacks._compat import log_headline
from logitwatch.callbacks.cadence import Cadence
from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.reduction import agreed, reduced, world_size
from logitwatch.callbacks.tags import Tags
from logitwatch.callbacks.witness import Witness
from logitwatch.capture.look import Look
from logitwatch.capture.tap import Tap
from logitwatch.sinks.opening import log_folder, open_sinks
from logitwatch.sinks.protocol import Sink
from logitwatch.sinks.readings import Reading, Scalars, Text
from logitwatch.states.protocol import Packed, State, pack, unpack

if TYPE_CHECKING:
    from logitwatch.callbacks.monitor import Monitor

__all__ = ["Session"]

logger = logging.getLogger("logitwatch")

SCHEMA = 1


class Session:
    """One fit, validation, test or prediction of one module, as its monitors see it.

    The tap asks `wants` at the start of each step and hands over what was captured with `receive`; Lightning's hooks
    arrive through `event`. Whatever fails in here is isolated, counted and reported.
    """

    def __init__(self, trainer: Any, module: Any) -> None:
        self.trainer, self.module = trainer, module
        self.tap = Tap.of(module)
        self.monitors: list[Monitor] = []
        self.faults = Faults()
        self.witness = Witness(self.tap)
        self.cadence: Cadence | None = None
        self.dropped = 0
        self._sinks: list[Sink] | None = None
        self._windows: dict[tuple[str, str, int], State] = {}
        self._looked_rows = self._sampled_rows = self._looks = self._calls = 0
        self._own_seconds = 0.0
        self._window_start = time.perf_counter()
        self._paused: float | None = None
        self._step, self._step_start = -1, 0.0
        self._undisturbed = False

    @classmethod
    def join(cls, trainer: Any, module: Any, monitor: Monitor) -> Session:
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
        device_type = self.module.device.type
        # The step ran under the user's autocast; statistics are not to.
        with self.faults.isolated("capture"), torch.no_grad(), torch.autocast(device_type, enabled=False):
            self._absorb(look)
        if look.stage != "train" or self.cadence is None:
            return
        now = self._now()
        self.cadence.timed_look(now - start)
        with self.faults.isolated("report"):
            if self.cadence.report(look.step):
                self._report_window(look.step)
                self.cadence.timed_report(self._now() - now)
                if self.cadence.ready():
                    self._freeze(look.step)
        self._own_seconds += self._now() - start

    def event(self, monitor: Monitor, name: str, *args: Any) -> None:
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
        for sink in self._sinks or []:
            with self.faults.isolated(f"sink {type(sink).__name__}"):
                sink.close()
        self._sinks = None

    def saved(self, monitor: Monitor) -> dict[str, Any]:
        """State of a monitor for a checkpoint: plain numbers, strings and tensors. Never fails."""
        state: dict[str, Any] = {"schema": SCHEMA}
        with self.faults.isolated("saving"):
            if self.cadence is not None:
                state["cadence"] = self.cadence.state_dict()
            window = self._windows.get((monitor.state_key, "train", 0))
            if window is not None:
                sums, maxima = pack(window)
                state["window"] = {"sums": sums.cpu().clone(), "maxima": maxima.cpu().clone()}
        return state

    # ---- training steps

    def _wants_training_step(self) -> Look | None:
        self._calls += 1
        step = self.trainer.global_step
        cadence = self.cadence or self._start_cadence()
        if not cadence.frozen and step != self._step:
            now = time.perf_counter()
            if self._undisturbed:
                cadence.timed_step(now - self._step_start)
            self._step, self._step_start, self._undisturbed = step, now, True
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
            report_every=self.trainer.log_every_n_steps,
        )
        for monitor in self.monitors:
            with self.faults.isolated("resuming"):
                self._resume(monitor, monitor._saved or {})
            monitor._saved = None
        return self.cadence

    def _resume(self, monitor: Monitor, saved: dict[str, Any]) -> None:
        if not saved:
            return
        if saved.get("schema") != SCHEMA:
            logger.warning("logitwatch: state of schema %s cannot be read, starting afresh", saved.get("schema"))
            return
        if "cadence" in saved and monitor.every_n_steps is None and self.cadence is not None:
            self.cadence.load_state_dict(saved["cadence"])
        if "window" in saved:
            packed = Packed(saved["window"]["sums"], saved["window"]["maxima"])
            self._windows[monitor.state_key, "train", 0] = unpack(monitor.empty(torch.device("cpu")), packed)

    def _freeze(self, step: int) -> None:
        assert self.cadence is not None
        every, rows = agreed(self.cadence.choose(), self.module.device)
        self.cadence.freeze(every, rows, step=step)
        text = (
            f"Looks at every {self.cadence.every_n_steps} optimizer steps, {rows} rows of each, and reports every "
            f"{self.cadence.report_every}: at most {self.cadence.budget:.1%} of the step time. To repeat this exactly: "
            f"`LogitMonitor(every_n_steps={every}, rows={rows})`."
        )
        self._write([Text(tag="logitwatch/cadence", step=step, markdown=text)])

    # ---- looks

    def _absorb(self, look: Look) -> None:
        seen = self.tap.observations(look)
        primary = seen[0][1].source if seen else None
        for text in self.witness.testify(look, seen):
            self._write([text])
        rows = self.cadence.rows if look.stage == "train" and self.cadence is not None else None
        histograms = rows is None or self.cadence is None or self.cadence.histograms
        for call, observation in seen:
            sample = observation if rows is None else observation.sample(rows)
            if look.stage == "train" and observation.source == primary:
                self._looks += 1
                self._looked_rows += observation.num_rows
                self._sampled_rows += sample.num_rows
            for monitor in self.monitors:
                place = type(monitor).__name__
                if observation.source == (monitor.source or primary) and self.faults.armed(place):
                    with self.faults.isolated(place):
                        terms = (call.lent or {}).get("terms")
                        self._merge(monitor, look, monitor.summary(observation, sample, terms, histograms=histograms))

    def _merge(self, monitor: Monitor, look: Look, state: State | None) -> None:
        if state is None:
            return
        key = (monitor.state_key, look.stage, look.loader)
        window = self._windows.get(key)
        self._windows[key] = state if window is None else window.merge(state)

    # ---- reports

    def _report_window(self, step: int, *, last: bool = False) -> None:
        assert self.cadence is not None
        states = self._reduced("train", 1)
        self.cadence.reported()
        readings: list[Reading] = []
        for (monitor, _), state in states.items():
            if monitor.rows_in(state) < (1 if last else monitor.fewest_rows):
                continue
            self._windows.pop((monitor.state_key, "train", 0), None)
            with self.faults.isolated(type(monitor).__name__):
                readings += monitor.readings(state, Tags("train", source=monitor.source), step)
        now = time.perf_counter()
        elapsed = max(1e-9, now - self._window_start)
        itself = {
            "logitwatch/overhead": self._own_seconds / elapsed,
            "logitwatch/faults": float(self.faults.count),
            "logitwatch/dropped": float(self.dropped),
        }
        if self._looked_rows:  # rows of steps not looked at are taken to be as many as of those that were
            itself["logitwatch/coverage"] = self._sampled_rows / (self._looked_rows / self._looks * self._calls)
        self._write([*readings, Scalars(values=itself, step=step)])
        self._own_seconds, self._window_start = 0.0, now
        self._looked_rows = self._sampled_rows = self._looks = self._calls = 0

    def _reduced(self, stage: str, loaders: int) -> dict[tuple[Monitor, int], State]:
        """The windows of a stage merged over ranks; the order and sizes are the same on every rank."""
        keys = [(monitor, loader) for monitor in self.monitors for loader in range(loaders)]
        states = [
            self._windows.get((monitor.state_key, stage, loader)) or monitor.empty(self.module.device)
            for monitor, loader in keys
        ]
        return dict(zip(keys, reduced(states, self.module.device), strict=True))

    def _on_train_start(self) -> None:
        self._window_start = time.perf_counter()
        self._open()

    def _on_evaluation_start(self) -> None:
        self._paused, self._undisturbed = time.perf_counter(), False

    def _on_epoch_end(self, stage: str) -> None:
        if self._paused is not None:
            self._window_start += time.perf_counter() - self._paused
            self._paused = None
        if self.trainer.sanity_checking:
            return
        step = self.trainer.global_step
        readings: list[Reading] = []
        batches = getattr(self.trainer, f"num_{stage}_batches")
        for (monitor, loader), state in self._reduced(stage, len(batches) if isinstance(batches, list) else 1).items():
            self._windows.pop((monitor.state_key, stage, loader), None)
            rows = monitor.rows_in(state)
            if rows == 0:
                continue
            tags = Tags(stage, loader, monitor.source)
            with self.faults.isolated(type(monitor).__name__):
                readings += monitor.readings(state, tags, step)
                if stage != "predict":
                    log_headline(self.module, monitor.headline(state, tags), batch_size=rows)
        self._write(readings)

    def _on_train_end(self) -> None:
        if self.cadence is not None:
            self._report_window(self.trainer.global_step, last=True)

    # ---- sinks

    def _open(self) -> list[Sink]:
        if self._sinks is None:
            self._sinks = []
            if self.trainer.is_global_zero:
                loggers = self.trainer.loggers
                for logger_ in loggers:  # some name their folder only when their experiment exists
                    with self.faults.isolated(f"logger {type(logger_).__name__}"):
                        _ = logger_.experiment
                self._sinks = open_sinks(loggers, log_folder(loggers))
        return self._sinks

    def _write(self, readings: list[Reading]) -> None:
        if not readings:
            return
        for sink in self._open():
            place = f"sink {type(sink).__name__}"
            written = False
            if self.faults.armed(place):
                with self.faults.isolated(place):
                    sink.write(readings)
                    written = True
            self.dropped += 0 if written else len(readings)

    def _now(self) -> float:
        """The clock; while the cadence is being chosen, once the device has done what it was given."""
        if self.cadence is not None and not self.cadence.frozen and self.module.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()
