"""Cases 29 to 42 of the fault matrix: however Lightning's loops are used, and whoever fails in them."""

import copy
import pickle

import pytest
import torch
from callbacks.test_boundary import failing
from end_to_end.recomputed import last, scalars
from end_to_end.test_compiled import before_the_trainer, in_on_train_start
from end_to_end.test_resume import report_numbers
from helpers.models import cross_entropy_step, loader, model, namespace, net, trainer
from torch import nn
from torch._dynamo.utils import counters

import logitwatch
from logitwatch.testing import assert_harmless

L = namespace("pytorch_lightning")
ROWS = 64
# Of a fit with a validation and a checkpoint.
HOOKS = (
    *("setup", "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end"),
    *("on_validation_start", "on_validation_batch_end", "on_validation_end", "on_train_epoch_end"),
    *("state_dict", "on_train_end", "teardown"),
)


def watch(**options):
    return logitwatch.watch(every_n_steps=1, rows=10**9, **options)


def fitted(callbacks, folder=None, subject=None, *, val=None, **options):
    """The Trainer after a fit on digits, and what its module recorded of its logits."""
    subject = model(L) if subject is None else subject
    t = trainer(L, callbacks, folder=folder, **({"log_every_n_steps": 1000} | options))
    t.fit(subject, loader(ROWS), loader(32, start=200) if val is None else val)
    return t, subject


def agrees(folder, subject, stage="train", *, every=1, suffix=""):
    """No logits but those of this stage are in what was reported, and each of them once."""
    seen = torch.cat([z for z, _ in subject.recorded[stage][::every]])
    reported = last(folder)
    assert reported[f"logits/{stage}/rows{suffix}"] == len(seen)
    assert reported[f"logits/{stage}/max{suffix}"] == seen.amax()
    assert reported[f"logits/{stage}/min{suffix}"] == seen.amin()
    assert reported["logitwatch/faults"] == 0


def left_alone(subject):
    return (
        subject.training_step.__func__ is type(subject).training_step
        and not any(m._forward_hooks or m._forward_pre_hooks for m in subject.modules())
        and torch.overrides._get_current_function_mode_stack() == []
    )


def by_module(module, batch, stage):
    logits = module.net(batch[0])
    module.record(stage, logits, batch[1])
    return module.criterion(logits, batch[1])


@pytest.mark.parametrize("hook", HOOKS)
def test_case_29_a_hook_that_fails_leaves_the_same_run(hook, tmp_path):
    kind, calls = failing(hook)
    monitor = kind(every_n_steps=1)
    options = {"default_root_dir": tmp_path, "enable_checkpointing": True}
    assert_harmless(lambda: fitted([monitor], **options)[0], lambda: fitted([], **options)[0])
    assert monitor.faults == min(3, len(calls)) > 0


@pytest.mark.parametrize("place", ["training_step", "validation_step", "another callback"])
def test_case_30_an_exception_of_the_user_leaves_no_hook_and_loses_no_number(place, tmp_path):
    def step(module, batch, stage):
        loss = by_module(module, batch, stage)
        if (place, stage, len(module.recorded[stage])) in {
            ("training_step", "train", 3),
            ("validation_step", "val", 2),
        }:
            raise ValueError("the user's")
        return loss

    class Fails(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if place == "another callback" and batch_idx == 2:
                raise ValueError("the user's")

    subject = model(L, step, criterion=nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="the user's"):
        fitted([*watch(), Fails()], tmp_path, subject)
    assert left_alone(subject)
    # The step that failed on the way is not counted, for it has no loss; the four before the validation all are.
    expected = {"training_step": 2, "another callback": 3, "validation_step": 4}[place]
    assert last(tmp_path)["logits/train/rows"] == 16 * expected


@pytest.mark.parametrize("first", [True, False])
def test_case_31_another_callback_that_fails_on_exception_leaves_ours_fit_for_the_next_run(first, tmp_path):
    class Fails(L.Callback):
        def on_exception(self, trainer, module, exception):
            raise RuntimeError("a callback's")

    def step(module, batch, stage):
        if module.fails:
            raise ValueError("the user's")
        return by_module(module, batch, stage)

    monitors = watch()
    subject = model(L, step, criterion=nn.CrossEntropyLoss(), fails=True)
    with pytest.raises((ValueError, RuntimeError)):
        fitted([Fails(), *monitors] if first else [*monitors, Fails()], subject=subject)
    subject.fails = False
    fitted(monitors, tmp_path, subject)
    assert left_alone(subject)
    agrees(tmp_path, subject)


def test_case_32_setting_up_twice_and_running_again_hooks_on_once(tmp_path):
    class SetsUpAgain(L.Callback):
        hooks = ()

        def on_fit_start(self, trainer, module):
            for monitor in monitors:
                monitor.setup(trainer, module, "fit")

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.hooks = (*self.hooks, len(module.criterion._forward_hooks))

    monitors, again, subject = watch(), SetsUpAgain(), model(L, by_module, criterion=nn.CrossEntropyLoss())
    t = trainer(L, [*monitors, again], folder=tmp_path, log_every_n_steps=1000)
    t.validate(subject, loader(48), verbose=False)
    t.fit(subject, loader(ROWS), loader(32))
    t.fit_loop.max_epochs = 2
    t.fit(subject, loader(ROWS), loader(32))
    t.test(subject, loader(16), verbose=False)
    reported = scalars(tmp_path)
    assert [rows for _, rows in reported["logits/val/rows"]] == [48, 32, 32]
    assert [rows for _, rows in reported["logits/train/rows"]] == [ROWS, ROWS]
    assert [rows for _, rows in reported["logits/test/rows"]] == [16]
    assert max(again.hooks) <= 1
    assert left_alone(subject)


def noisy(module, batch, stage):
    loss = cross_entropy_step(module, batch, stage)
    module.log(f"{stage}_loss", loss)
    return loss


@pytest.mark.parametrize("options", [{}, {"every_n_steps": 1, "rows": 4}], ids=["chosen", "every step"])
def test_case_33_a_watched_run_is_the_same_run(options, tmp_path):
    def run(callbacks):
        return fitted(callbacks, subject=model(L, noisy, network=net(dropout=0.5)), num_sanity_val_steps=1)[0]

    assert_harmless(lambda: run(logitwatch.watch(**options)), lambda: run([]))


WAYS = {
    "accumulated gradients": ({"accumulate_grad_batches": 2}, 2),  # one batch of each step
    "clipped gradients": ({"gradient_clip_val": 0.1}, 1),
    "limited batches": ({"limit_train_batches": 3, "limit_val_batches": 1}, 1),
    "overfit batches": ({"overfit_batches": 2}, 1),
    "a sanity check": ({"num_sanity_val_steps": 2}, 1),
}


@pytest.mark.parametrize(("options", "every"), WAYS.values(), ids=WAYS.keys())
@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_case_34_options_of_the_loop_count_what_it_ran(options, every, tmp_path):
    _, subject = fitted(watch(), tmp_path, **options)
    agrees(tmp_path, subject, every=every)
    agrees(tmp_path, subject, "val")


def test_case_34_fast_dev_run_watches_and_writes_nothing(tmp_path):
    t, _ = fitted(watch(), default_root_dir=tmp_path, fast_dev_run=True)
    assert "calibration/val/ece" in t.callback_metrics
    assert list(tmp_path.rglob("*")) == []


def test_case_34_manual_optimisation_with_several_optimizers(tmp_path):
    def step(module, batch, stage):
        loss = cross_entropy_step(module, batch, stage)
        if stage == "train":
            module.manual_backward(loss)
            for optimizer in module.optimizers():
                optimizer.step()
                optimizer.zero_grad()

    subject = model(L, step, manual=True)
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (subject.net[0], subject.net[-1])]
    subject.configure_optimizers = lambda: optimizers
    t, _ = fitted(watch(), tmp_path, subject)
    assert t.global_step == 4 * 2
    agrees(tmp_path, subject)


def test_case_35_each_validation_loader_has_its_own_numbers(tmp_path):
    _, subject = fitted(watch(), tmp_path, val=[loader(32, start=64), loader(48, start=200)])
    both = subject.recorded["val"]
    for part, suffix in ((both[:2], ""), (both[2:], "/dataloader_idx_1")):
        subject.recorded["val"] = part
        agrees(tmp_path, subject, "val", suffix=suffix)


RETURNS = {"None": lambda _: None, "a tensor": lambda loss: loss, "a dict": lambda loss: {"loss": loss, "note": "text"}}


@pytest.mark.parametrize("returned", RETURNS.values(), ids=RETURNS.keys())
@pytest.mark.filterwarnings("ignore:.*returned `None`")
def test_case_36_whatever_a_step_returns_it_is_seen(returned, tmp_path):
    subject = model(L, lambda module, batch, stage: returned(cross_entropy_step(module, batch, stage)))
    fitted(watch(), tmp_path, subject)
    agrees(tmp_path, subject)
    agrees(tmp_path, subject, "val")


class Keeping(L.loggers.logger.Logger):
    name, version = "keeping", 0

    def __init__(self):
        super().__init__()
        self.kept = {}

    log_hyperparams = print

    def log_metrics(self, metrics, step=None):
        self.kept |= metrics


@pytest.mark.parametrize("kind", ["False", "None", "list", "custom"])
def test_case_37_any_logger_or_none(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = Keeping(), Keeping()
    logger = {"False": False, "None": None, "list": list(kept), "custom": kept[0]}[kind]
    monitors = watch()
    t, _ = fitted(monitors, logger=logger)
    assert "calibration/val/ece" in t.callback_metrics
    assert [monitor.faults for monitor in monitors] == [0, 0, 0]
    told = {"list": kept, "custom": kept[:1]}.get(kind, ())
    assert all(each.kept["logits/train/rows"] == ROWS for each in told)
    assert bool(list(tmp_path.rglob("logitwatch.jsonl"))) == (kind == "None")


def test_case_38_two_of_one_kind_are_refused_when_the_trainer_is_made():
    with pytest.raises(RuntimeError, match="Found more than one stateful callback of type `LogitMonitor`"):
        trainer(L, [*watch(), *watch()])


def test_case_38_two_of_one_kind_with_distinct_sources_both_report(tmp_path):
    def step(module, batch, stage):
        logits = module.net(batch[0])
        return module.main(logits, batch[1]) + module.aux(2 * logits, batch[1])

    subject = model(L, step, main=nn.CrossEntropyLoss(), aux=nn.CrossEntropyLoss())
    fitted([monitor for source in ("main", "aux") for monitor in watch(source=source)], tmp_path, subject)
    maxima = {tag: value for tag, value in last(tmp_path).items() if tag.startswith("logits/train/max")}
    assert len(maxima) == 2
    assert max(maxima.values()) == 2 * min(maxima.values())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.bfloat16), ("64-true", torch.float64)]
)
def test_case_39_in_any_precision_the_run_is_the_same_and_its_logits_are_seen(precision, dtype, tmp_path):
    subject, options = model(L), {"precision": precision}  # on the CPU Lightning makes bf16 of 16
    assert_harmless(lambda: fitted(watch(), tmp_path, subject, **options)[0], lambda: fitted([], **options)[0])
    assert subject.recorded["train"][0][0].dtype == dtype
    agrees(tmp_path, subject)


@pytest.mark.parametrize("way", [before_the_trainer, in_on_train_start])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_case_40_a_compiled_network_compiles_once_and_breaks_nowhere(way, tmp_path):
    torch._dynamo.reset()
    counters.clear()
    try:
        subject, callbacks = way()
        fitted([*watch(), *callbacks], tmp_path, subject, val=[], limit_val_batches=0)
        graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    finally:
        torch._dynamo.reset()
    assert (graphs, breaks) == (1, 0)
    agrees(tmp_path, subject)


class Classifier(L.LightningModule):
    """What other processes can unpickle."""

    def __init__(self, batch_size=16):
        super().__init__()
        self.net, self.batch_size = net(), batch_size

    def train_dataloader(self):
        return loader(ROWS, self.batch_size)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])
def test_case_41_a_trainer_is_copied_with_its_model_and_monitors_and_runs(copied, tmp_path):
    t = trainer(L, watch(), folder=tmp_path, log_every_n_steps=1000)
    t.fit(Classifier())
    t, subject = copied((t, t.lightning_module))
    t.fit_loop.max_epochs = 2
    t.fit(subject)
    assert [rows for _, rows in scalars(tmp_path)["logits/train/rows"]] == [ROWS, ROWS]
    assert last(tmp_path)["logitwatch/faults"] == 0


@pytest.mark.ranks
@pytest.mark.slow
def test_case_41_spawned_ranks_report_their_union(tmp_path):
    t = trainer(L, watch(), folder=tmp_path, strategy="ddp_spawn", devices=2, log_every_n_steps=1000)
    t.fit(Classifier())
    assert last(tmp_path)["logits/train/rows"] == ROWS
    assert last(tmp_path)["logitwatch/faults"] == 0


def test_case_42_averaged_weights_are_those_the_validation_is_watched_with(tmp_path):
    _, subject = fitted([*watch(), L.callbacks.EMAWeightAveraging(decay=0.5)], tmp_path)
    agrees(tmp_path, subject)
    agrees(tmp_path, subject, "val")


FINDERS = {
    "learning rate": lambda: L.callbacks.LearningRateFinder(num_training_steps=6),
    "batch size": lambda: L.callbacks.BatchSizeFinder(init_val=8, max_trials=2),
    "batch size, trials of one step": lambda: L.callbacks.BatchSizeFinder(steps_per_trial=1, init_val=8, max_trials=1),
}


@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize("first", [True, False])
def test_case_42_what_a_tuner_tries_is_not_in_the_numbers(finder, first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the finder keeps a checkpoint where it is
    subject = Classifier()
    subject.lr = 0.1
    callbacks = [FINDERS[finder](), *watch()] if first else [*watch(), FINDERS[finder]()]
    trainer(L, callbacks, folder="tuned", log_every_n_steps=1000).fit(subject)
    trainer(L, watch(), folder="plain", log_every_n_steps=1000).fit(Classifier(subject.batch_size))
    assert report_numbers("tuned") == report_numbers("plain")
