"""A good monitor, and one for each check of `logitwatch.testing` that is bad in that one way and no other."""

import re
import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from logitwatch.callbacks._compat import LightningCallback
from logitwatch.callbacks.monitor import Monitor
from logitwatch.sinks.readings import Scalars
from logitwatch.states.protocol import maximised, merge_fields, summed
from logitwatch.testing._telling import reason
from logitwatch.testing.monitor_checks import monitor_checks


@dataclass(frozen=True)
class Seen:
    count: Tensor = summed()
    total: Tensor = summed()
    highest: Tensor = maximised()

    def merge(self, other):
        return merge_fields(self, other)


class Good(Monitor):
    """The largest logit, under tags the glossary knows."""

    sums = torch.float64
    lowest = -float("inf")

    def empty(self, device):
        return Seen(
            torch.zeros((), dtype=torch.int64, device=device),
            torch.zeros((), dtype=self.sums, device=device),
            torch.full((), self.lowest, device=device),
        )

    def summary(self, observation, sample, terms, *, histograms):
        high = observation.max_logit.float()
        counted = observation.valid & high.isfinite()
        highest = torch.cat([high.masked_fill(~counted, -torch.inf), high.new_full((1,), -torch.inf)]).amax()
        return Seen(counted.sum(), high.masked_fill(~counted, 0).sum(dtype=self.sums), highest)

    def readings(self, state, tags, step):
        return [Scalars(values=self.values(state, tags), step=step)]

    def rows_in(self, state):
        return int(state.count)

    def values(self, state, tags):
        values = {tags("logits", "rows"): float(state.count)}
        if state.count:
            values |= {tags("logits", "max"): float(state.highest), tags("logits", "mean"): float(state.total)}
        return values


class Plain(LightningCallback):
    """A callback of no kind of ours, which does nothing."""


class Positional(Plain):
    def __init__(self, every=10):
        super().__init__()


class Unsayable(Plain):
    def __init__(self, *, how=print):
        super().__init__()


class OfOneNamespace(Plain):
    def setup(self, trainer, pl_module, stage):
        if type(trainer).__module__.startswith("pytorch_lightning"):
            raise RuntimeError("not here")


class Uncopied(Plain):
    def __deepcopy__(self, memo):
        raise RuntimeError("there is only one")


class LockedAfterAFit(Plain):
    def on_fit_start(self, trainer, pl_module):
        self.lock = threading.Lock()


class AnotherWhenCopied(Plain):
    def __reduce__(self):
        return Plain, ()


class DrawsOnce(Plain):
    drawn = False

    def on_validation_end(self, trainer, pl_module):
        if trainer.global_step == 8 and not self.drawn:
            self.drawn = True
            torch.rand(1)


class FailsInTest(Good):
    def summary(self, observation, sample, terms, *, histograms):
        if observation.stage == "test":
            raise RuntimeError("no test")
        return super().summary(observation, sample, terms, histograms=histograms)


class Miscounts(Good):
    @property
    def faults(self):
        return 0


class Once(Plain):
    fits = 0

    def on_fit_start(self, trainer, pl_module):
        self.fits += 1
        if self.fits > 1:
            raise RuntimeError("used up")

    def __getstate__(self):
        return {}


class NoPrediction(Plain):
    def on_predict_start(self, trainer, pl_module):
        raise RuntimeError("no prediction")


class Finite(Plain):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if not outputs["logits"].isfinite().all():
            raise ValueError("not finite")


class OfTwoClasses(Good):
    def summary(self, observation, sample, terms, *, histograms):
        if observation.num_classes < 2:
            raise ValueError("too few")
        return super().summary(observation, sample, terms, histograms=histograms)


class SavesAParameter(Plain):
    def state_dict(self):
        return {"mine": nn.Parameter(torch.zeros(1))}


class Historian(Plain):
    def __init__(self):
        super().__init__()
        self.history = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.history.append(float(outputs["loss"]))

    def state_dict(self):
        return {"history": list(self.history)}


class Unresumable(Plain):
    def state_dict(self):
        return {"new": 1}

    def load_state_dict(self, state_dict):
        state_dict["old"]


class ForgetsTheLast(Good):
    def load_state_dict(self, state_dict):
        raise KeyError("old")


class Clinging(Plain):
    """Leaves a mark on the module, and takes it off in ``teardown`` and after what ``lets_go_after`` says."""

    lets_go_after = (BaseException,)

    def setup(self, trainer, pl_module, stage):
        pl_module.mine = True

    def teardown(self, trainer, pl_module, stage):
        del pl_module.mine

    def on_exception(self, trainer, pl_module, exception):
        if isinstance(exception, self.lets_go_after):
            del pl_module.mine


class LeavesAHook(Plain):
    def on_fit_start(self, trainer, pl_module):
        pl_module.head.register_forward_hook(lambda *_: None)

    def on_exception(self, trainer, pl_module, exception):
        pl_module.head._forward_hooks.clear()


class ClingsAfterAnError(Clinging):
    lets_go_after = (KeyboardInterrupt,)


class ClingsAfterAnInterrupt(Clinging):
    lets_go_after = (Exception,)


class Keeps(Plain):
    """Keeps of each step what ``keep`` takes, until the run is over."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.kept.append(self.keep(outputs["logits"]))

    def teardown(self, trainer, pl_module, stage):
        self.kept.clear()

    def on_exception(self, trainer, pl_module, exception):
        self.kept.clear()


class KeepsLogits(Keeps):
    def keep(self, logits):
        return logits.detach()


class KeepsTheLastLogits(Keeps):
    def keep(self, logits):
        self.kept.clear()
        return logits[:1]


class KeepsTheGraph(Keeps):
    def keep(self, logits):
        return logits.grad_fn


class InPlace(Plain):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        outputs["logits"].detach().mul_(1)


class BehindTheBack(Plain):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        outputs["logits"].data.add_(1)


class NotFromNothing(Good):
    lowest = 100.0


class HalfPrecise(Good):
    sums = torch.float32


class Averages(Good):
    def summary(self, observation, sample, terms, *, histograms):
        seen = super().summary(observation, sample, terms, histograms=histograms)
        return Seen(seen.count, seen.total / seen.count.clamp(min=1), seen.highest)


MOST = 40


@dataclass(frozen=True)
class Largest:
    values: Tensor = summed()

    def merge(self, other):
        return Largest(torch.cat([self.values, other.values]).sort(descending=True).values[:MOST])


class Grows(Good):
    """Keeps the largest logits, as many as there were up to a number."""

    def empty(self, device):
        return Largest(torch.zeros(0, device=device))

    def summary(self, observation, sample, terms, *, histograms):
        return self.empty(observation.max_logit.device).merge(Largest(observation.max_logit.float().nan_to_num()))

    def rows_in(self, state):
        return len(state.values)

    def values(self, state, tags):
        return {tags("logits", "rows"): float(len(state.values))}


class Reads(Good):
    def summary(self, observation, sample, terms, *, histograms):
        int(observation.valid.sum())
        return super().summary(observation, sample, terms, histograms=histograms)


class FromTheStart(Good):
    def readings(self, state, tags, step):
        return super().readings(state, tags, 0)


class OneLoader(Good):
    def values(self, state, tags):
        return super().values(state, tags._replace(loader=0))


class OneStage(Good):
    def values(self, state, tags):
        return super().values(state, tags._replace(stage="val"))


class Twice(Good):
    def readings(self, state, tags, step):
        return 2 * super().readings(state, tags, step)


class Undescribed(Good):
    def values(self, state, tags):
        return {**super().values(state, tags), tags("mine", "number"): 1.0}


class Divides(Good):
    def readings(self, state, tags, step):
        rows = int(state.count) if step == 0 else 1
        return super().readings(state, tags, step) if 1 / rows else []


class CountsOneMore(Good):
    def rows_in(self, state):
        return super().rows_in(state) + 1


class Mutant(NamedTuple):
    check: str
    kind: type
    reason: str


MUTANTS = [
    Mutant("options are keywords with plain defaults", Positional, "every is not keyword-only"),
    Mutant("options are keywords with plain defaults", Unsayable, "the default of how is no plain value"),
    Mutant("it trains under every lightning it is a callback of", OfOneNamespace, "not here"),
    Mutant("it is copied and pickled before and after a fit", Uncopied, "a deep copy before a fit: RuntimeError"),
    Mutant("it is copied and pickled before and after a fit", LockedAfterAFit, "a deep copy after a fit: TypeError"),
    Mutant("it is copied and pickled before and after a fit", AnotherWhenCopied, "before a fit: is a Plain"),
    Mutant("a watched run is the same run", DrawsOnce, "random numbers of torch"),
    Mutant("an ordinary run has no fault", FailsInTest, "test: 3 faults were isolated.*: no test"),
    Mutant("its faults leave the same run and are all counted", Miscounts, "0 faults counted"),
    Mutant("it may be used again", Once, "used up"),
    Mutant("it goes through validate fit test and predict", NoPrediction, "no prediction"),
    Mutant("odd batches neither end the run nor change it", Finite, "NaN: ValueError: not finite"),
    Mutant(
        "odd batches neither end the run nor change it",
        OfTwoClasses,
        "one class: 3 faults were isolated.*: too few",
    ),
    Mutant("its state is plain and loads safely", SavesAParameter, "'mine' is a Parameter"),
    Mutant("its state does not grow", Historian, "80 bytes in the first 10 steps, 480 in 60"),
    Mutant("a run resumes from its checkpoint", Unresumable, "KeyError: 'old'"),
    Mutant("a run resumes from its checkpoint", ForgetsTheLast, "1 faults were isolated; the first: KeyError"),
    Mutant("it lets go of the module after a fit", LeavesAHook, "_forward_hooks of module head"),
    Mutant("it lets go of the module after an error of the user", ClingsAfterAnError, "mine of module"),
    Mutant("it lets go of the module after an interrupt", ClingsAfterAnInterrupt, "mine of module"),
    Mutant("no logits or graph outlive their step", KeepsLogits, "the logits of 8 steps too many"),
    Mutant("no logits or graph outlive their step", KeepsTheLastLogits, "the logits of 1 steps too many"),
    Mutant("no logits or graph outlive their step", KeepsTheGraph, "the graph of 8 steps too many"),
    Mutant("the logits are not changed", InPlace, "an operation in place was applied"),
    Mutant("the logits are not changed", BehindTheBack, "values of the logits were changed"),
    Mutant("an empty state is the identity of merge", NotFromNothing, "highest: 1 of 1 differ"),
    Mutant("merged parts are the whole", HalfPrecise, "total: 1 of 1 differ"),
    Mutant("merged parts are the whole", Averages, "total: 1 of 1 differ"),
    Mutant("a state is as large whatever it has seen", Grows, r"with some rows {'values': 'float32 \(40,\)'}"),
    Mutant("a summary reads no value", Reads, "meta"),
    Mutant("readings carry the step and the tags they are given", FromTheStart, r"said to be of \[0\]"),
    Mutant("readings carry the step and the tags they are given", OneLoader, "expected family/val/<quantity>/datal"),
    Mutant("readings carry the step and the tags they are given", OneStage, "expected family/train/<quantity>"),
    Mutant("tags are distinct", Twice, "said twice: logits/val/max, logits/val/mean"),
    Mutant("every tag has a unit or a meaning", Undescribed, "nowhere described: mine/val/number"),
    Mutant("an empty state can be read", Divides, "ZeroDivisionError"),
    Mutant("an empty state can be read", CountsOneMore, "of no rows it counts 1"),
]


def mutants_of(checks):
    names = {check.__name__.replace("_", " ") for check in checks}
    return [mutant for mutant in MUTANTS if mutant.check in names]


def assert_found_out(mutant):
    found = "nothing"
    try:
        monitor_checks()[mutant.check](mutant.kind)
    except Exception as error:
        found = reason(error)
    assert re.search(mutant.reason, found), found


class SavesNumpy(Good):
    """What its state is made of never reaches a checkpoint, and is a fault."""

    def state_dict(self):
        return {"mine": np.float64(1)}
