"""What the tap must see without a change to the user's code: numbers against the logits the model itself kept."""

import logging
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import as_pairs, expected_calibration, expected_logits, joined, last, texts
from helpers.models import CLASSES, cross_entropy_step, loader, model, namespace, net, trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import logitwatch

L = namespace("pytorch_lightning")
WHOLE_RUN = 10**6  # one window, reported at the end
# Per-row quantities are float32, whose rounding is 6e-8; differences of two of them lose a digit or two.
CLOSE = {"rel": 1e-5, "abs": 1e-6}


def watched(model, folder, *, source=None, train=None, val=None, every_n_steps=1, **options):
    """Train on every look and every row; returns what was reported last."""
    monitors = [
        logitwatch.LogitMonitor(every_n_steps=every_n_steps, rows=10**9, source=source, on_fault="raise"),
        logitwatch.CalibrationMonitor(every_n_steps=every_n_steps, rows=10**9, source=source, on_fault="raise"),
    ]
    options = {"log_every_n_steps": WHOLE_RUN, "num_sanity_val_steps": 2} | options
    trainer(L, monitors, folder=folder, **options).fit(
        model, loader() if train is None else train, loader(32, start=64) if val is None else val
    )
    return last(folder)


def agrees(reported, rows, targets=None, *, stage="train", suffix="", ignore_index=-100):
    expected = {
        f"logits/{stage}/{name}{suffix}": value
        for name, value in expected_logits(rows, targets, ignore_index=ignore_index).items()
    }
    if targets is not None:
        valid = torch.ones(len(rows), dtype=torch.bool) if targets.ndim == 2 else targets != ignore_index
        calibration = expected_calibration(rows[valid], targets[valid])
        expected |= {f"calibration/{stage}/{name}{suffix}": value for name, value in calibration.items()}
    found = {tag: reported[tag] for tag in expected}
    assert found == pytest.approx(expected, **CLOSE)
    for tag in (f"logits/{stage}/max{suffix}", f"logits/{stage}/min{suffix}"):
        assert found[tag] == expected[tag]


def says(folder, source, *, stage="train", proven=True):
    """The one text of the capture names the source and, where there is a criterion, has recomputed its loss."""
    (text,) = texts(folder, f"logitwatch/capture/{stage}")
    assert text.startswith(f"Watching `{source}` in {stage}: ")
    assert ("loss recomputed from them" in text) == proven, text


def proven(caplog):
    assert [r.getMessage() for r in caplog.records if r.name == "logitwatch" and "disagree" in r.getMessage()] == []


# Each step records the logits in the layout the criterion gets; the table says where their classes are.


def keyword_step(module, batch, stage):
    logits = module.net(batch[0])
    module.record(stage, logits, batch[1])
    return module.criterion(input=logits, target=batch[1])


def positional_step(module, batch, stage):
    logits = module.net(batch[0])
    module.record(stage, logits, batch[1])
    return module.criterion(logits, batch[1])


def imported_step(module, batch, stage):
    logits = module.net(batch[0])
    module.record(stage, logits, batch[1])
    return cross_entropy(logits, target=batch[1], label_smoothing=0.1)


def fresh_criterion_step(module, batch, stage):
    logits = module.net(batch[0])
    module.record(stage, logits, batch[1])
    return nn.CrossEntropyLoss(label_smoothing=0.1)(logits, batch[1])


def nll_step(module, batch, stage):
    log_p = module.net(batch[0]).log_softmax(-1)
    module.record(stage, log_p, batch[1])
    return F.nll_loss(log_p, batch[1])


def soft_step(module, batch, stage):
    logits = module.net(batch[0])
    soft = 0.8 * F.one_hot(batch[1], CLASSES) + 0.02
    module.record(stage, logits, soft)
    return F.cross_entropy(logits, soft)


def ignoring_step(module, batch, stage):
    logits = module.net(batch[0])
    targets = torch.where(batch[1] > 6, -100, batch[1])
    module.record(stage, logits, targets)
    return F.cross_entropy(logits, targets)


def weighted_step(module, batch, stage):
    logits = module.net(batch[0])
    module.record(stage, logits, batch[1])
    return F.cross_entropy(logits, batch[1], weight=torch.arange(1.0, 11.0), reduction="sum") / 1000


def image_step(module, batch, stage):
    logits = module.net(batch[0]).view(-1, CLASSES, 2, 2)
    targets = (batch[1].view(-1, 1, 1) + torch.arange(4).view(2, 2)) % CLASSES
    module.record(stage, logits, targets)
    return F.cross_entropy(logits, targets)


def sequence(module, batch):
    logits = module.net(batch[0]).view(-1, 4, CLASSES)
    return logits, (batch[1].unsqueeze(-1) + torch.arange(4)) % CLASSES


def flattened_step(module, batch, stage):
    logits, targets = sequence(module, batch)
    module.record(stage, logits, targets)
    return F.cross_entropy(logits.reshape(-1, CLASSES), targets.reshape(-1))


def unflattened_step(module, batch, stage):
    logits, targets = sequence(module, batch)
    module.record(stage, logits, targets)
    return F.cross_entropy(logits.transpose(1, 2), targets)


def dict_step(module, batch, stage):
    return {"loss": cross_entropy_step(module, batch, stage), "note": "no tensor"}


def manual_step(module, batch, stage):
    loss = cross_entropy_step(module, batch, stage)
    if stage == "train":
        optimizer = module.optimizers()
        optimizer.zero_grad()
        module.manual_backward(loss)
        optimizer.step()


def checkpointed_step(module, batch, stage, *, use_reentrant):
    x = batch[0].requires_grad_()  # the reentrant kind needs it
    logits = checkpoint(module.net, x, use_reentrant=use_reentrant)
    module.record(stage, logits, batch[1])
    return F.cross_entropy(logits, batch[1])


def checkpointed_criterion_step(module, batch, stage, *, use_reentrant, manual=False):
    def region(x):
        logits = module.net(x)
        module.seen.append(logits.detach().clone())
        return module.criterion(logits, batch[1]) if hasattr(module, "criterion") else F.cross_entropy(logits, batch[1])

    loss = checkpoint(region, batch[0].requires_grad_(), use_reentrant=use_reentrant)
    module.record(stage, module.seen[-1], batch[1])
    if manual and stage == "train":
        module.optimizers().zero_grad()
        module.manual_backward(loss)
        module.optimizers().step()
        return None
    return loss


CASES = {
    "module, positional": (positional_step, "criterion", {"criterion": nn.CrossEntropyLoss()}),
    "module, keywords": (keyword_step, "criterion", {"criterion": nn.CrossEntropyLoss(label_smoothing=0.1)}),
    "module, weighted": (keyword_step, "criterion", {"criterion": nn.CrossEntropyLoss(torch.arange(1.0, 11.0))}),
    "module, one for each row": (
        lambda m, b, s: positional_step(m, b, s).mean(),
        "criterion",
        {"criterion": nn.CrossEntropyLoss(reduction="none")},
    ),
    "module inside a module": (
        lambda m, b, s: positional_step(m, b, s),
        "inner.loss",
        {"inner": nn.ModuleDict({"loss": (held := nn.CrossEntropyLoss())}), "criterion": held},
    ),
    "module made in the step": (fresh_criterion_step, "cross_entropy", {}),
    "function": (cross_entropy_step, "cross_entropy", {}),
    "function, imported by name": (imported_step, "cross_entropy", {}),
    "function, weighted sum": (weighted_step, "cross_entropy", {}),
    "negative log-likelihood": (nll_step, "nll_loss", {}),
    "soft targets": (soft_step, "cross_entropy", {}),
    "ignore_index": (ignoring_step, "cross_entropy", {}),
    "image": (image_step, "cross_entropy", {"network": net(classes=4 * CLASSES), "class_dim": 1}),
    "language model, flattened": (flattened_step, "cross_entropy", {"network": net(classes=4 * CLASSES)}),
    "language model, unflattened": (unflattened_step, "cross_entropy", {"network": net(classes=4 * CLASSES)}),
    "returns a dict": (dict_step, "cross_entropy", {}),
    "manual optimisation, returns None": (manual_step, "cross_entropy", {"manual": True}),
    **{
        f"checkpointed network, {kind}": (partial(checkpointed_step, use_reentrant=kind), "cross_entropy", {})
        for kind in (True, False)
    },
    **{
        f"checkpointed criterion, {name}, {kind}": (
            partial(checkpointed_criterion_step, use_reentrant=kind, manual=name == "manual"),
            "criterion" if name == "module" else "cross_entropy",
            {"seen": [], "manual": name == "manual"}
            | ({"criterion": nn.CrossEntropyLoss()} if name == "module" else {}),
        )
        for name in ("module", "function", "manual")
        for kind in (True, False)
    },
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_sees_what_the_criterion_was_given(case, tmp_path, caplog):
    step, source, attributes = case
    attributes = dict(attributes)
    class_dim = attributes.pop("class_dim", -1)
    watched_model = model(L, step, **attributes)
    reported = watched(watched_model, tmp_path)
    for stage in ("train", "val"):
        agrees(reported, *joined(watched_model.recorded[stage], class_dim=class_dim), stage=stage)
        says(tmp_path, source, stage=stage)
    proven(caplog)


@pytest.mark.parametrize("criterion", [nn.BCEWithLogitsLoss(), None], ids=["module", "function"])
def test_it_sees_multi_label_targets_as_one_decision_an_element(criterion, tmp_path, caplog):
    def step(module, batch, stage):
        logits, labels = module.net(batch[0]), F.one_hot(batch[1], CLASSES).float()
        module.record(stage, logits, labels)
        return (module.criterion or F.binary_cross_entropy_with_logits)(logits, labels)

    watched_model = model(L, step, criterion=criterion)
    reported = watched(watched_model, tmp_path)
    logits = torch.cat([z for z, _ in watched_model.recorded["val"]])
    labels = torch.cat([y for _, y in watched_model.recorded["val"]]).reshape(-1)
    expected = expected_logits(as_pairs(logits), labels.long())
    for name in ("rows", "entropy", "confidence", "nll", "accuracy", "log_partition"):
        assert reported[f"logits/val/{name}"] == pytest.approx(expected[name], **CLOSE), name
    assert reported["logits/val/max"] == logits.max()
    assert reported["logits/val/min"] == logits.min()
    assert reported["calibration/val/accuracy"] == pytest.approx(expected["accuracy"], **CLOSE)
    says(tmp_path, "binary_cross_entropy_with_logits" if criterion is None else "criterion")
    proven(caplog)


def test_our_losses_come_with_their_terms(tmp_path, caplog):
    from logitwatch.losses import CrossEntropyLoss, ZLoss

    watched_model = model(L, positional_step, criterion=CrossEntropyLoss() + ZLoss(0.01))
    reported = watched(watched_model, tmp_path)
    for stage in ("train", "val"):
        rows, targets = joined(watched_model.recorded[stage])
        agrees(reported, rows, targets, stage=stage)
        assert reported[f"losses/{stage}/cross_entropy"] == pytest.approx(reported[f"logits/{stage}/nll"], **CLOSE)
        z_loss = 0.01 * rows.logsumexp(-1).square().mean()
        assert reported[f"losses/{stage}/z_loss"] == pytest.approx(float(z_loss), **CLOSE)
    assert watched_model.criterion.lent is None
    says(tmp_path, "criterion", proven=False)


def test_a_capped_loss_tells_how_many_logits_are_saturated(tmp_path):
    from logitwatch.losses import CrossEntropyLoss, LogitSquashing, ZLoss

    criterion = LogitSquashing(CrossEntropyLoss() + ZLoss(0.01), cap=0.3)
    watched_model = model(L, positional_step, criterion=criterion)
    reported = watched(watched_model, tmp_path)
    for stage in ("train", "val"):
        # of equally many rows in each batch; past atanh(sqrt(0.9)) caps a tenth of the gradient comes through
        rows, _ = joined(watched_model.recorded[stage])
        share = (rows.abs() > 0.3 * math.atanh(math.sqrt(0.9))).double().mean().item()
        assert 0.05 < share < 0.95
        assert reported[f"losses/{stage}/soft_cap_saturation"] == pytest.approx(share, **CLOSE)
        assert {f"losses/{stage}/{term}" for term in ("cross_entropy", "z_loss")} < reported.keys()


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_both_namespaces_report_the_same(name, tmp_path):
    lightning = namespace(name)
    watched_model = model(lightning)
    monitors = logitwatch.watch(every_n_steps=1, rows=10**9)
    trainer(lightning, monitors, folder=tmp_path, log_every_n_steps=WHOLE_RUN).fit(watched_model, loader(), loader(32))
    agrees(last(tmp_path), *joined(watched_model.recorded["train"]))
    agrees(last(tmp_path), *joined(watched_model.recorded["val"]), stage="val")


def test_with_accumulated_gradients_one_micro_batch_of_each_step_is_looked_at(tmp_path):
    watched_model = model(L)
    reported = watched(watched_model, tmp_path, accumulate_grad_batches=2)
    agrees(reported, *joined(watched_model.recorded["train"][::2]))
    assert reported["logitwatch/coverage"] == 0.5


def test_half_precision_is_lifted_and_not_rounded_again(tmp_path, caplog):
    watched_model = model(L)
    reported = watched(watched_model, tmp_path, precision="bf16-mixed")
    assert watched_model.recorded["train"][0][0].dtype == torch.bfloat16
    for stage in ("train", "val"):
        agrees(reported, *joined(watched_model.recorded[stage]), stage=stage)
    assert "bfloat16" in texts(tmp_path, "logitwatch/capture/train")[0]
    proven(caplog)


@pytest.mark.parametrize("criterion", [None, nn.CrossEntropyLoss(torch.arange(1.0, 11.0))], ids=["plain", "weighted"])
def test_a_model_wholly_in_half_precision_is_proven_too(criterion, tmp_path, caplog):
    step = cross_entropy_step if criterion is None else positional_step
    watched_model = model(L, step, criterion=criterion)
    reported = watched(watched_model, tmp_path, precision="bf16-true")
    agrees(reported, *joined(watched_model.recorded["train"]))
    says(tmp_path, "cross_entropy" if criterion is None else "criterion")
    proven(caplog)


def test_each_validation_loader_has_its_own_tags(tmp_path):
    watched_model = model(L)
    metrics = {}

    class Keeps(L.Callback):
        def on_validation_end(self, trainer, module):
            metrics.update(trainer.callback_metrics)

    monitors = [logitwatch.LogitMonitor(on_fault="raise"), logitwatch.CalibrationMonitor(on_fault="raise"), Keeps()]
    loaders = [loader(32, start=64), loader(48, start=200)]
    trainer(L, monitors, folder=tmp_path).fit(watched_model, loader(), loaders)
    first, second = watched_model.recorded["val"][:2], watched_model.recorded["val"][2:]
    agrees(last(tmp_path), *joined(first), stage="val")
    agrees(last(tmp_path), *joined(second), stage="val", suffix="/dataloader_idx_1")
    for tag in ("calibration/val/ece", "calibration/val/ece/dataloader_idx_1"):
        assert metrics[tag].item() == pytest.approx(last(tmp_path)[tag], **CLOSE)


def test_the_sanity_check_is_not_counted(tmp_path):
    watched_model = model(L)
    reported = watched(watched_model, tmp_path, num_sanity_val_steps=2)
    assert reported["logits/val/rows"] == 32


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_inner_network_is_seen_at_its_criterion(backend, tmp_path, caplog):
    watched_model = model(L, positional_step, criterion=nn.CrossEntropyLoss())
    watched_model.net = torch.compile(watched_model.net, backend=backend)
    reported = watched(watched_model, tmp_path)
    for stage in ("train", "val"):
        agrees(reported, *joined(watched_model.recorded[stage]), stage=stage)
    says(tmp_path, "criterion")
    proven(caplog)


@pytest.mark.parametrize("kind", ["function", "module"])
def test_a_compiled_step_is_seen_from_inside(kind, tmp_path, caplog):
    def step(module, batch, stage):
        logits, loss = module.compiled(*batch)
        module.record(stage, logits, batch[1])
        return loss

    criterion = nn.CrossEntropyLoss() if kind == "module" else F.cross_entropy
    watched_model = model(L, step, criterion=criterion)

    def forward_and_loss(x, y):
        logits = watched_model.net(x)
        return logits, watched_model.criterion(logits, y)

    watched_model.compiled = torch.compile(forward_and_loss, backend="aot_eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    # Looked at now and then, as in a real run: compiled code must not be made anew for each look.
    reported = watched(watched_model, tmp_path, train=loader(160), every_n_steps=2)
    # A criterion that has a hook is given one look of the training before functions are listened to.
    agrees(reported, *joined(watched_model.recorded["train"][2 if kind == "module" else 0 :: 2]))
    agrees(reported, *joined(watched_model.recorded["val"]), stage="val")
    says(tmp_path, "cross_entropy")
    # Training and validation, looked at or not, and the one look of the hook: nothing that changes is guarded on.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= (5 if kind == "module" else 4)
    proven(caplog)


@pytest.mark.parametrize("key", ["targets", "target", "labels", "label", "y"])
def test_logits_a_step_returns_are_found_where_no_criterion_is(key, tmp_path):
    def step(module, batch, stage):
        x, y = batch
        logits = module.net(x)
        module.record(stage, logits, y)
        return {"loss": -logits.log_softmax(-1).gather(-1, y.unsqueeze(-1)).mean(), "logits": logits, key: y}

    watched_model = model(L, step)
    reported = watched(watched_model, tmp_path)
    for stage in ("train", "val"):
        agrees(reported, *joined(watched_model.recorded[stage]), stage=stage)
    says(tmp_path, "outputs", proven=False)


def test_returned_logits_without_targets_are_watched_without_accuracy(tmp_path):
    def step(module, batch, stage):
        logits = module.net(batch[0])
        module.record(stage, logits)
        return {"loss": logits.square().mean(), "logits": logits}

    watched_model = model(L, step)
    reported = watched(watched_model, tmp_path)
    agrees(reported, *joined(watched_model.recorded["train"]))
    assert not {"logits/train/accuracy", "logits/train/nll", "logits/train/overconfidence"} & set(reported)
    assert not any(tag.startswith("calibration/") for tag in reported)


def test_a_named_submodule_is_followed(tmp_path):
    watched_model = model(L)
    reported = watched(watched_model, tmp_path, source="net.3")
    rows, _ = joined(watched_model.recorded["train"])
    expected = {f"logits/train/{name}": value for name, value in expected_logits(rows).items()}
    assert {tag: reported[tag] for tag in expected} == pytest.approx(expected, **CLOSE)
    assert "logits/train/accuracy" not in reported


def test_a_named_criterion_is_followed_beside_the_first(tmp_path):
    def step(module, batch, stage):
        x, y = batch
        module.record(stage, 2 * (logits := module.net(x)), y)
        return module.main(logits, y) + module.aux(2 * logits, y)

    watched_model = model(L, step, main=nn.CrossEntropyLoss(), aux=nn.CrossEntropyLoss())
    reported = watched(watched_model, tmp_path, source="aux")
    rows, targets = joined(watched_model.recorded["train"])
    agrees(reported, rows, targets)


def test_monitors_of_one_kind_that_follow_different_sources_name_them_in_their_tags(tmp_path):
    def step(module, batch, stage):
        x, y = batch
        logits = module.net(x)
        return module.main(logits, y) + module.aux(2 * logits, y)

    watched_model = model(L, step, main=nn.CrossEntropyLoss(), aux=nn.CrossEntropyLoss())
    both = [logitwatch.LogitMonitor(every_n_steps=1), logitwatch.LogitMonitor(every_n_steps=1, source="aux")]
    trainer(L, both, folder=tmp_path).fit(watched_model, loader())
    reported = last(tmp_path)
    assert reported["logits/train/max/aux"] == 2 * reported["logits/train/max"]


def test_a_source_that_is_not_there_is_said_once_with_what_is(tmp_path, caplog):
    monitors = logitwatch.watch(every_n_steps=1, source="no.such")
    trainer(L, monitors, folder=tmp_path, log_every_n_steps=1).fit(model(L, unused=nn.CrossEntropyLoss()), loader())
    warnings = [r.getMessage() for r in caplog.records if "no.such" in r.getMessage()]
    assert len(warnings) == 1
    assert "cross_entropy" in warnings[0]
    assert "unused" in warnings[0]


def test_a_validation_step_that_calls_the_training_step_is_validation(tmp_path):
    class Reusing(type(model(L))):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return self.training_step(batch, batch_idx)

    watched_model = Reusing()
    t = trainer(L, logitwatch.watch(every_n_steps=1), folder=tmp_path, num_sanity_val_steps=2)
    t.fit(watched_model, loader(64), loader(48, start=64))
    reported = last(tmp_path)
    assert (reported["logits/train/rows"], reported["logits/val/rows"]) == (64, 48)


def test_a_criterion_that_is_not_used_costs_one_look_of_the_training_and_no_row_of_the_validation(tmp_path):
    watched_model = model(L, unused=nn.CrossEntropyLoss())
    reported = watched(watched_model, tmp_path)
    agrees(reported, *joined(watched_model.recorded["train"][1:]))
    agrees(reported, *joined(watched_model.recorded["val"]), stage="val")
    says(tmp_path, "cross_entropy")


def test_of_two_criteria_the_first_called_is_the_primary_source(tmp_path):
    def step(module, batch, stage):
        x, y = batch
        module.record(stage, logits := module.net(x), y)
        return module.main(logits, y) + module.aux(2 * logits, y)

    watched_model = model(L, step, aux=nn.CrossEntropyLoss(), main=nn.CrossEntropyLoss())
    reported = watched(watched_model, tmp_path)
    agrees(reported, *joined(watched_model.recorded["train"]))


def test_what_is_observed_wins_over_every_other_source(tmp_path):
    def step(module, batch, stage):
        x, y = batch
        logits = module.net(x)
        module.record(stage, 2 * logits, y)
        logitwatch.observe(2 * logits, y)
        return {"loss": module.criterion(logits, y) + F.cross_entropy(logits, y), "logits": logits}

    watched_model = model(L, step, criterion=nn.CrossEntropyLoss())
    reported = watched(watched_model, tmp_path)
    for stage in ("train", "val"):
        agrees(reported, *joined(watched_model.recorded[stage]), stage=stage)
    says(tmp_path, "observe", proven=False)


def test_observing_takes_the_class_axis_and_a_mask(tmp_path):
    def step(module, batch, stage):
        logits, targets = sequence(module, batch)
        mask = torch.arange(4).expand(targets.shape) < 3
        module.record(stage, logits, torch.where(mask, targets, -100))
        logitwatch.observe(logits.transpose(1, 2), targets, dim=1, mask=mask)
        return logits.square().mean()

    watched_model = model(L, step, network=net(classes=4 * CLASSES))
    reported = watched(watched_model, tmp_path)
    agrees(reported, *joined(watched_model.recorded["train"]))
    assert reported["logits/train/ignored"] == 64


def test_predicted_logits_are_watched_when_handed_over(tmp_path):
    def step(module, batch, stage):
        logits = module.net(batch[0])
        module.record(stage, logits)
        logitwatch.observe(logits)
        return logits

    watched_model = model(L, step)
    monitors = [logitwatch.LogitMonitor(on_fault="raise"), logitwatch.CalibrationMonitor(on_fault="raise")]
    trainer(L, monitors, folder=tmp_path).predict(watched_model, loader())
    agrees(last(tmp_path), *joined(watched_model.recorded["predict"]), stage="predict")


def test_capturing_nothing_is_said_once_with_the_remedy(tmp_path, caplog):
    def step(module, batch, stage):
        return {"loss": module.net(batch[0]).square().mean(), "note": 1}

    watched_model = model(L, step, unused=nn.CrossEntropyLoss())
    with caplog.at_level(logging.WARNING, logger="logitwatch"):
        trainer(L, logitwatch.watch(every_n_steps=1)).fit(watched_model, loader(160))
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "logitwatch"]
    for part in (
        "training_step",
        "unused",
        "F.cross_entropy",
        "['loss', 'note']",
        "logitwatch.observe(logits, targets)",
    ):
        assert part in warning


def test_a_source_that_falls_silent_is_said_once(tmp_path, caplog):
    def step(module, batch, stage):
        logits = module.net(batch[0])
        if module.global_step < 3:
            return F.cross_entropy(logits, batch[1])
        return logits.square().mean()

    with caplog.at_level(logging.WARNING, logger="logitwatch"):
        trainer(L, logitwatch.watch(every_n_steps=1)).fit(model(L, step), loader(320))
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "logitwatch"]
    assert "the function spoke before" in warning


def test_a_wrong_capture_is_disproved_and_said_once(tmp_path, caplog):
    class Scaled(nn.CrossEntropyLoss):  # divides by a temperature inside, so its argument is not what is softmaxed
        def forward(self, input, target):
            return super().forward(input / 10, target)

    with caplog.at_level(logging.WARNING, logger="logitwatch"):
        trainer(L, logitwatch.watch(every_n_steps=1)).fit(model(L, positional_step, criterion=Scaled()), loader(160))
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "logitwatch"]
    assert "They disagree" in warning
    assert "criterion" in warning
