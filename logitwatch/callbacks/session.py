"""What the monitors of one module share, and the order of things in a run: look, merge, reduce, report."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch

from logitwatch.callbacks._compat import log_scalars
from logitwatch.callbacks.alerts import Alerts
from logitwatch.callbacks.cadence import Cadence
from logitwatch.callbacks.faults import Faults
from logitwatch.callbacks.ledger import Account
from logitwatch.callbacks.loss_doctor import LossDoctor
from logitwatch.callbacks.outlet import Outlet
from logitwatch.callbacks.pace import Pace
from logitwatch.callbacks.reduction import agreed, world_size
from logitwatch.callbacks.reporter import Reporter
from logitwatch.callbacks.tags import Tags
from logitwatch.callbacks.windows import Windows, plain_state
from logitwatch.callbacks.witness import Witness
from logitwatch.capture.criteria import Call
from logitwatch.capture.look import Look
from logitwatch.capture.observation import Observation
from logitwatch.capture.tap import Tap
from logitwatch.functional.sharded_rows import SplitRows
from logitwatch.sinks.readings import Reading, Scalars, Text
from logitwatch.states.protocol import State

__all__ = ["Session"]

logger = logging.getLogger("logitwatch")


class Session:
    """One fit, validation, test or prediction of one module, as its monitors see it.

    The tap asks `wants` at the start of each step and hands over what was captured with `receive`; Lightning's hooks
    arrive through `event`. What a monitor, a source or a sink does is isolated one by one. The skeleton is left: the
    optimizer step alone decides when to report, and every rank then takes part in the reduction, so that no fault of
    one leaves the others waiting.
    """

    def __init__(self, trainer: Any, module: Any) -> None:
        self.trainer, self.module = trainer, module
        self.monitors: list[Reporter] = []
        self.tap = Tap.of(module)
        self.faults = Faults()
        self.alerts = Alerts()
        accumulation = partial(getattr, trainer, "accumulate_grad_batches", 1)
        self.witness = Witness(self.tap, LossDoctor(self.faults, self.alerts.counts, accumulation))
        self.outlet = Outlet(trainer, self.faults)
        self.windows = Windows(self.faults, module)
        self.pace = Pace(lambda: module.device)
        # The report on its way out: its step, whose windows it has, what they say. Set in one store, so never half.
        self._leaving: tuple[int, list[Reporter], list[Reading]] | None = None
        self._last_report = -1

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
        with session.faults.skeleton("tap"):
            session.tap.attach(session, requested={monitor.source} if monitor.source else set())
        return session

    def wants(self, stage: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Look | None:
        """See `Listener.wants`."""
        try:
            # Lightning's tuners take the callbacks away from the Trainer while they try something.
            if self.trainer.sanity_checking or self.monitors[-1] not in self.trainer.callbacks:
                return None
            step = self.trainer.global_step
            if stage == "train":
                if self.pace.cadence is None:
                    self._start_cadence()
                if not self.pace.due(step):
                    return None
            look = Look(stage, int(args[2] if len(args) > 2 else kwargs.get("dataloader_idx", 0)))
            look.step, look.number, look.now = step, self.windows.split.number(step), self.pace.now
            return look
        except Exception:
            self.faults.note("cadence")
            return None

    def receive(self, look: Look) -> None:
        """See `Listener.receive`."""
        start = self.pace.now() - look.seconds
        if self.faults.armed("capture"):
            self.faults.attempt("capture", self._absorb, look, otherwise=None)
        cadence = self.pace.cadence
        if look.stage != "train" or cadence is None:
            return
        seen = self.pace.now()
        cadence.timed_look(seen - start)
        elsewhere = 0.0
        if cadence.report(look.step):
            with self.faults.skeleton("report"):
                self._report_window(look.step)
            elsewhere = self.outlet.worked()
            cadence.timed_report(self.pace.now() - seen + elsewhere)
            if cadence.ready():
                with self.faults.skeleton("cadence"):
                    self._freeze(cadence, look.step)
        self.pace.ledger.spent(self.pace.now() - start, elsewhere=elsewhere)

    def failed(self) -> None:
        """See `Listener.failed`."""
        self.faults.note("capture")

    def event(self, monitor: Reporter, name: str, *args: Any) -> None:
        """A Lightning hook of a monitor; acts once for all, at the last of them, or at once when the run is over."""
        if name in ("abort", "close"):
            getattr(self, name)()
        elif monitor is self.monitors[-1]:
            getattr(self, f"_on_{name}")(*args)

    def abort(self) -> None:
        """An exception ends the run: write what this process knows, without asking other ranks, and let go."""
        try:
            if self.tap.listener is self and self.pace.cadence is not None and world_size() == 1:
                self._send(again=True)
                self._report_window(self.trainer.global_step, last=True)
        finally:
            self.close()

    def close(self) -> None:
        """Take off every hook, flush the sinks. Harmless when done already."""
        if self.tap.listener is self:
            self.tap.detach()
        self.outlet.close()

    def saved(self, monitor: Reporter) -> dict[str, Any]:
        """State of a monitor on this rank for a checkpoint: plain numbers, strings and tensors. Never fails."""
        if self.pace.cadence is None:  # no step yet: what was loaded is not read either
            return monitor.saved
        return self.faults.attempt("saving", self._state, monitor, self.pace.cadence, otherwise={})

    def _state(self, monitor: Reporter, cadence: Cadence) -> dict[str, Any]:
        return {
            "cadence": cadence.state_dict(),
            "record": self.outlet.position(),
            "window": self.windows.saved(monitor),
            "memory": monitor.memory(),
            "alerts": dict(self.alerts.counts),
        }

    def _start_cadence(self) -> None:
        deciding = [monitor for monitor in self.monitors if monitor.looks_at_training] or self.monitors
        by_hand = [m.every_n_steps for m in deciding if m.every_n_steps is not None]
        rows = [m.rows for m in deciding if m.rows is not None]
        self.pace.cadence = cadence = Cadence(
            budget=min(m.budget for m in deciding),
            every_n_steps=min(by_hand, default=None),
            rows=max(rows, default=None),
            report_every=self.trainer.log_every_n_steps or 50,
        )
        for monitor in self.monitors:
            saved, monitor.saved = monitor.saved, {}
            if saved:
                self._resume(cadence, monitor, saved)

    def _resume(self, cadence: Cadence, monitor: Reporter, saved: dict[str, Any]) -> None:
        """Take up what a checkpoint brought: the same cadence on every rank, and the window of all of them on one."""
        for name, take_up in (("cadence", cadence.load_state_dict), ("memory", monitor.recall)):
            try:
                take_up(saved[name])
            except Exception as error:
                text = "logitwatch: the saved %s of %s cannot be used, starting afresh: %r"
                logger.warning(text, name, type(monitor).__name__, error)
        self.alerts.counts.update(saved.get("alerts", {}))
        if self.trainer.is_global_zero:
            self.windows.restore(monitor, saved.get("window"), self.module.device)

    def _freeze(self, cadence: Cadence, step: int) -> None:
        every, rows = agreed(cadence.choose(), self.module.device)
        cadence.freeze(every, rows, step=step)
        text = (
            f"Looks at every {every} optimizer steps, {rows} rows of each, and reports every "
            f"{cadence.report_every}, by a budget of {cadence.budget:.1%} of the step time. To keep this "
            f"cadence: `watch(every_n_steps={every}, rows={rows})`."
        )
        self.outlet.write([Text(tag="logitwatch/cadence", step=step, markdown=text)])

    @torch.no_grad()
    def _absorb(self, look: Look) -> None:
        """Make observations of a look and merge what each monitor makes of them."""
        for monitor in self.monitors:
            self.windows.gather(monitor, look, partial(monitor.beside, look))
        seen: list[tuple[Call, Observation | SplitRows]] = []
        for call in look.calls(self.tap.requested):
            if not seen:  # the rows drawn of a step are the same whatever was drawn before: after a resume, too
                self.tap.generator(call.device).manual_seed(look.step)
            found = self.faults.attempt("capture", self.tap.captured, look, call, otherwise=None)
            if found is not None:
                seen.append((call, found))
        primary = seen[0][0].source if seen else None
        followed = {monitor.source or primary for monitor in self.monitors}
        self.witness.testify(look, seen, followed)
        training = self.pace.cadence if look.stage == "train" else None
        rows = sampled = 0
        for call, found in seen:
            if isinstance(found, SplitRows):
                kept = self._keep(look, call, found, primary)
            else:
                kept = self._summarise(look, call, found, primary, training)
            if call.source == primary:
                rows, sampled = rows + found.num_rows, sampled + kept
        if training is not None and seen:  # of no rows, too: another rank may count them
            self.pace.ledger.looked(rows=rows, sampled=sampled)

    def _summarise(
        self, look: Look, call: Call, observation: Observation, primary: str | None, training: Cadence | None
    ) -> int:
        """Merge what each monitor that follows a call makes of it; gives of how many rows the distribution is taken."""
        sample = observation if training is None or observation.unbuilt else observation.sample(training.rows)
        histograms = training is None or training.histograms
        terms = {name: n for kind in ("terms", "numbers") for name, n in (call.lent or {}).get(kind, {}).items()}
        for monitor in self.monitors:
            if call.source == (monitor.source or primary):
                summary = partial(monitor.summary, observation, sample, terms, histograms=histograms)
                self.windows.gather(monitor, look, summary)
        return sample.num_rows

    def _keep(self, look: Look, call: Call, rows: SplitRows, primary: str | None) -> int:
        """Keep this rank's shards of the rows of a call until the next report; gives how many."""
        asked = dict.fromkeys(m.source for m in self.monitors if call.source == (m.source or primary))
        where = look.stage, look.loader
        kept = (
            self.faults.attempt("capture", self.windows.split.add, rows, *where, name, look.number, otherwise=0)
            for name in asked
        )
        return max(kept, default=0)

    def _report_window(self, step: int, *, last: bool = False) -> None:
        """Report the training steps since the last report."""
        assert self.pace.cadence is not None
        self.pace.cadence.reported()
        account = self.pace.ledger.balance(faults=self.faults.count, dropped=self.outlet.dropped)
        windows, (total,) = self.windows.merged(
            self.monitors, "train", 1, self.module.device, also=[(account, Account.empty())]
        )
        readings, reported = self._told("train"), list[Reporter]()
        for (monitor, _), state in windows.items():
            if self._rows(monitor, state) < (1 if last else monitor.fewest_rows):
                continue
            reported.append(monitor)
            readings += self._readings(monitor, state, self._tags(monitor, "train"), step)
        assert isinstance(total, Account)
        if step != self._last_report:  # an exception in a step just reported has no more to account for
            readings.append(Scalars(values=total.values(), step=step))
        self._leaving = step, reported, self.alerts.counted(readings)
        self._send()

    def _send(self, *, again: bool = False) -> None:
        """Hand over the report on its way out; ``again`` where an interrupt, which may fall anywhere, has cut it."""
        if self._leaving is None:
            return
        self._last_report, reported, readings = self._leaving
        for monitor in reported:
            self.windows.clear(monitor, "train")
        self.outlet.write(readings, again=again)
        self._leaving = None

    def _told(self, stage: str) -> list[Reading]:
        return self.faults.attempt("capture", self.witness.readings, stage, otherwise=list[Reading]())

    def _rows(self, monitor: Reporter, state: State) -> float:
        """Rows of a reduced state; one that cannot say is taken for full, so that its window does not grow for ever."""
        return self.faults.attempt(type(monitor).__name__, monitor.rows_in, state, otherwise=float("inf"))

    def _readings(self, monitor: Reporter, state: State, tags: Tags, step: int) -> list[Reading]:
        place = type(monitor).__name__
        if not self.faults.armed(place):
            return []
        return self.faults.attempt(place, monitor.readings, state, tags, step, otherwise=[])

    def _logged(self, readings: list[Reading], stage: str, *, rows: float) -> list[Reading]:
        """The readings, whose scalars EarlyStopping and ModelCheckpoint may monitor from now on."""
        if stage != "predict":
            log = partial(log_scalars, batch_size=int(min(rows, 2**53)))
            self.faults.attempt("log", log, self.module, readings, otherwise=None)
        return readings

    def _tags(self, monitor: Reporter, stage: str, loader: int = 0) -> Tags:
        """Tags of a monitor; they name its source only where another monitor of its kind follows another one."""
        alone = sum(type(other) is type(monitor) for other in self.monitors) == 1
        return Tags(stage, loader, None if alone else monitor.source)

    def _on_train_start(self) -> None:
        self.pace.ledger.balance(faults=0, dropped=0)
        position: dict[str, Any] = next((m.saved["record"] for m in self.monitors if "record" in m.saved), {})
        self.outlet.open()
        self.faults.attempt("resuming of the record", self.outlet.rewind, position, otherwise=None)

    def _on_evaluation_start(self) -> None:
        self.pace.ledger.pause()
        self.pace.interrupted()

    def _on_epoch_end(self, stage: str) -> None:
        """Report a whole validation, test or prediction."""
        self.pace.ledger.resume()
        if self.trainer.sanity_checking:
            return
        step, batches = self.trainer.global_step, getattr(self.trainer, f"num_{stage}_batches")
        loaders = len(batches) if isinstance(batches, list) else 1
        windows, _ = self.windows.merged(self.monitors, stage, loaders, self.module.device)
        readings = self._told(stage)
        for (monitor, loader), state in windows.items():
            self.windows.clear(monitor, stage, loader)
            rows = self._rows(monitor, state)
            if rows == 0:
                continue
            tags = self._tags(monitor, stage, loader)
            readings += self._logged(self._readings(monitor, state, tags, step), stage, rows=rows)
        for monitor in self.monitors:
            tags = self._tags(monitor, stage)
            with self.faults.skeleton(type(monitor).__name__):
                readings += self._logged(monitor.concluded(tags, step), stage, rows=1)
        self.outlet.write(self.alerts.counted(readings), charged=False)  # time of validation is no time of steps

    def _on_save(self, checkpoint: dict[str, Any]) -> None:
        """Put the windows of all ranks into a checkpoint, which every rank takes part in writing.

        A rank that fails may write one alone; then nobody else is asked, and it has what this rank saw.
        """
        if world_size() == 1 or self.pace.cadence is None or self.trainer.interrupted:
            return
        windows, _ = self.windows.merged(self.monitors, "train", 1, self.module.device)
        for (monitor, _), state in windows.items():
            saved = checkpoint["callbacks"].get(monitor.state_key)
            if saved:
                saved["window"] = plain_state(state)

    def _on_train_end(self) -> None:
        if self.pace.cadence is not None:
            self._report_window(self.trainer.global_step, last=True)
