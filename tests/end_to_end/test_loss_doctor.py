"""Runs that are ill are told so once, with the fix; runs that are well are told nothing."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from helpers.models import NAMESPACES, digits, loader, model, namespace, net, trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import logitwatch
from logitwatch import losses
from logitwatch.callbacks.loss_rules import RULES

ROWS, BATCH = 640, 16
# Each sentence with its fix, any number in place of those it is made with.
SENTENCES = {rule.name: re.sub(r"\\{.*?\\}", ".+?", re.escape(f"{rule.sentence} {rule.fix}")) for rule in RULES}


def by(loss, change=lambda z: z):
    """A step with a loss of changed logits."""

    def step(module, batch, stage):
        return loss(change(module.net(batch[0])), batch[1])

    return step


def criterion_step(module, batch, stage):
    return module.criterion(module.net(batch[0]), batch[1])


def run(folder, step, lightning="pytorch_lightning", *, targets=None, data=None, how=None, **options):
    """What the doctor has left in the record of a run of 120 steps."""
    name = namespace(lightning)
    attributes = {key: options.pop(key) for key in ("criterion", "lr", "network") if key in options}
    watch = logitwatch.watch(**({"every_n_steps": 1} if how is None else how))
    t = trainer(name, watch, folder=folder, max_epochs=3, log_every_n_steps=10, **options)
    subject = model(name, step, **({"network": net(scale=1.0)} | attributes))
    held_out = loader(64, BATCH, start=1700, targets=targets) if data is None else data
    t.fit(subject, loader(ROWS, BATCH, targets=targets) if data is None else data, held_out)
    assert sum(monitor.faults for monitor in watch) == 0
    (record,) = folder.rglob("logitwatch.jsonl")
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "alert" and line["rule"] in SENTENCES]


def masked(z):
    return z.clone().index_fill_(1, torch.tensor([9]), -torch.inf)


def kept(batch):
    """Digits below 9, as the last class is masked."""
    return batch % 9


def one_against_all(y):
    return F.one_hot(y, 10).float()


def ragged(rows=ROWS):
    """Batches that count unequal numbers of rows."""
    x, y = (t[:rows] for t in digits())
    lengths = torch.randint(2, BATCH + 1, (rows // BATCH,), generator=torch.Generator().manual_seed(0))
    y = torch.where(torch.arange(BATCH) < lengths.unsqueeze(1), y.view(-1, BATCH), -100).reshape(-1)
    return DataLoader(TensorDataset(x, y), batch_size=BATCH)


def dead():
    """A network whose hidden units never fire."""
    layers = net()
    with torch.no_grad():
        layers[0].bias.fill_(-100.0)
    return layers


def observed_step(module, batch, stage):
    logits = module.net(batch[0])
    logitwatch.observe(logits, batch[1] + 1)
    return F.cross_entropy(logits, batch[1])


bce = F.binary_cross_entropy_with_logits
ILL = {
    "loss_double_softmax": (by(F.cross_entropy, lambda z: z.softmax(1)), {}),
    "loss_log_probabilities": (by(F.cross_entropy, lambda z: z.log_softmax(1)), {}),
    "loss_nll_of_logits": (by(F.nll_loss), {"lr": 1e-3}),
    "loss_double_sigmoid": (by(bce, torch.sigmoid), {"targets": one_against_all}),
    "loss_ignored_class": (by(lambda z, y: F.cross_entropy(z, y, ignore_index=3)), {}),
    "loss_smoothed_absent_class": (
        by(lambda z, y: F.cross_entropy(masked(z), y, label_smoothing=0.1)),
        {"targets": kept},
    ),
    "loss_unequal_batches": (by(F.cross_entropy), {"data": ragged(), "accumulate_grad_batches": 2}),
    "loss_half_precision": (by(F.cross_entropy), {"precision": "bf16-true"}),
    "loss_foreign_targets": (observed_step, {}),
    "loss_foreign_answers": (by(bce), {"targets": lambda y: 2 * one_against_all(y) - 1}),
    "loss_several_classes": (
        by(F.cross_entropy),
        {"targets": lambda y: one_against_all(y).maximum(one_against_all((y + 1) % 10))},
    ),
    "loss_all_ignored": (by(losses.CrossEntropyLoss()), {"targets": lambda y: y * 0 - 100}),
    "loss_bad_weights": (
        by(lambda z, y: F.cross_entropy(z, y, weight=torch.tensor([torch.nan] + 9 * [1.0]))),
        {"targets": lambda y: y.clamp(min=1)},
    ),
    "loss_constant_logits": (by(F.cross_entropy), {"network": dead()}),
}


def test_every_rule_has_an_ill_run():
    assert list(ILL) == [rule.name for rule in RULES]


def test_what_a_user_sees_first(tmp_path, caplog):
    (alert,) = run(tmp_path, ILL["loss_double_softmax"][0], how={})
    assert alert["text"] == (
        "`cross_entropy` is given probabilities, rows that are never negative and add up to 1, and applies softmax to "
        "them again, so that with 10 classes the loss cannot fall below 1.46 nats. Pass it the logits, what goes into "
        "your softmax."
    )
    assert f"logitwatch: step 8: Softmax is applied twice. {alert['text']}" in caplog.text


@pytest.mark.parametrize("how", [{}, {"every_n_steps": 1}], ids=["chosen", "every step"])
def test_a_run_that_is_told_is_the_same_run(how):
    lightning = namespace("pytorch_lightning")
    weights = []
    for callbacks in ([], logitwatch.watch(**how)):
        subject = model(lightning, ILL["loss_double_softmax"][0])
        trainer(lightning, callbacks, max_epochs=2, log_every_n_steps=5).fit(subject, loader(320))
        weights.append([parameter.detach() for parameter in subject.parameters()])
    for one, other in zip(*weights, strict=True):
        assert torch.equal(one, other)


def test_a_resumed_run_is_not_told_again(tmp_path):
    lightning = namespace("pytorch_lightning")
    checkpoint = tmp_path / "saved.ckpt"
    counts = []
    for steps, path in ((20, None), (60, checkpoint)):
        watch = logitwatch.watch(every_n_steps=1)
        folder = tmp_path / str(steps)
        t = trainer(lightning, watch, folder=folder, max_steps=steps, max_epochs=-1, log_every_n_steps=5)
        t.fit(model(lightning, ILL["loss_double_softmax"][0]), loader(320), ckpt_path=path)
        t.save_checkpoint(checkpoint)
        (record,) = folder.rglob("logitwatch.jsonl")
        counts.append(sum('"rule":"loss_double_softmax"' in line for line in record.read_text().splitlines()))
    assert counts == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("lightning", NAMESPACES)
@pytest.mark.parametrize("rule", ILL)
def test_an_ill_run_is_told_so_once(rule, lightning, tmp_path, caplog):
    step, options = ILL[rule]
    (alert,) = run(tmp_path, step, lightning, **options)
    expected = next(known for known in RULES if known.name == rule)
    assert (alert["rule"], alert["title"]) == (rule, expected.title)
    assert re.fullmatch(SENTENCES[rule], alert["text"])
    told = [r.getMessage() for r in caplog.records if r.name == "logitwatch" and expected.title in r.getMessage()]
    assert len(told) == (alert["level"] != "info")


class NormalisesItself(nn.NLLLoss):
    def forward(self, input, target):
        return super().forward(input.log_softmax(1), target)


class TakesProbabilities(nn.CrossEntropyLoss):
    def forward(self, input, target):
        return super().forward(input.log(), target)


def padded(index, rows=ROWS):
    """Targets whose batches end in a run of an index, as sequences in one row after another do."""
    x, y = (t[:rows] for t in digits())
    lengths = torch.randint(8, BATCH + 1, (rows // BATCH,), generator=torch.Generator().manual_seed(1))
    y = torch.where(torch.arange(BATCH) < lengths.unsqueeze(1), y.view(-1, BATCH).clamp(min=1), index).reshape(-1)
    return DataLoader(TensorDataset(x, y), batch_size=BATCH)


class Tokens(nn.Module):
    """Logits ``[batch, classes, positions]`` of each row of pixels."""

    def __init__(self):
        super().__init__()
        self.net = net(scale=1.0)
        self.body, self.head = nn.Linear(8, 64), self.net

    def forward(self, x):
        return self.head(self.body(x.view(-1, 8, 8))).movedim(-1, 1)


def next_token(module, batch, stage):
    """Of each row of pixels its sum in nine steps, 0 for an empty one, which is padding."""
    targets = batch[0].view(-1, 8, 8).sum(-1).round().long()
    return F.cross_entropy(module.net(batch[0]), targets, ignore_index=0)


def untrained_head():
    layers = net()
    nn.init.zeros_(layers[-1].weight)
    nn.init.zeros_(layers[-1].bias)
    return layers


def positive_head():
    """A single answer that begins, as it will stay, at somewhat more yes than no."""
    layers = net(classes=1, scale=0.3)
    nn.init.constant_(layers[-1].bias, 0.4)
    return layers


def mostly_yes(y):
    return (y < 6).float().unsqueeze(1)


def no_signal(y):
    """Answers nobody can tell, three in five of them yes."""
    return (torch.rand(len(y), 1, generator=torch.Generator().manual_seed(2)) < 0.6).float()


def contrastive(module, batch, stage):
    z = F.normalize(module.net(batch[0]), dim=1)
    return F.cross_entropy(z @ z.flip(0).T / 0.1, torch.arange(len(z)).flip(0))


def with_relu():
    return nn.Sequential(net(scale=1.0), nn.ReLU())


def linear_step(module, batch, stage):
    return module.criterion(module.net[:3](batch[0]), batch[1])


def distilled(module, batch, stage):
    logits = module.net(batch[0])
    return module.criterion(logits, teacher_logits=logits.detach().flip(0))


def ours(**cases):
    """A run for each loss of ours."""
    return {f"ours, {name.replace('_', ' ')}": (criterion_step, {"criterion": loss}) for name, loss in cases.items()}


weights = torch.linspace(0, 1, 10)
WELL = {
    "cross-entropy": (by(F.cross_entropy), {}),
    "a module": (criterion_step, {"criterion": nn.CrossEntropyLoss()}),
    "bf16-mixed": (by(F.cross_entropy), {"precision": "bf16-mixed"}),
    "label smoothing": (by(lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1)), {}),
    "class weights, one of them 0": (by(lambda z, y: F.cross_entropy(z, y, weight=weights)), {}),
    "log-likelihood": (by(F.nll_loss, lambda z: z.log_softmax(1)), {}),
    "log-likelihood in half precision": (by(F.nll_loss, lambda z: z.log_softmax(1)), {"precision": "bf16-mixed"}),
    "a loss that normalises": (criterion_step, {"criterion": NormalisesItself()}),
    "a loss that takes probabilities": (
        lambda module, batch, stage: module.criterion(module.net(batch[0]).softmax(1), batch[1]),
        {"criterion": TakesProbabilities()},
    ),
    "ours": (criterion_step, {"criterion": losses.CrossEntropyLoss() + losses.ZLoss(1e-2)}),
    "ours, a strong z-loss": (criterion_step, {"criterion": losses.CrossEntropyLoss() + losses.ZLoss(10.0)}),
    **ours(
        norm=losses.LogitNormLoss(0.04),
        focal=losses.FocalLoss(0.5),
        dual_focal=losses.DualFocalLoss(),
        margin=losses.MarginLabelSmoothing(),
        poly=losses.PolyLoss(),
        balanced=losses.BalancedSoftmax(list(range(1, 11))),
        squashed=losses.LogitSquashing(losses.LabelSmoothingCrossEntropy(), cap=1.0),
        confidence=losses.CrossEntropyLoss() + losses.ConfidencePenalty(0.5),
    ),
    "ours, yes or no": (
        criterion_step,
        {
            "criterion": losses.BinaryCrossEntropyWithLogits(label_smoothing=0.1, gamma=2.0),
            "targets": one_against_all,
        },
    ),
    "ours, yes or no with unknown labels": (
        criterion_step,
        {
            "criterion": losses.BinaryCrossEntropyWithLogits(),
            "targets": lambda y: one_against_all(y).masked_fill(one_against_all((y + 1) % 10) == 1, -100),
        },
    ),
    "ours, distilled": (distilled, {"criterion": losses.DistillationLoss()}),
    "ours, without the logits": (linear_step, {"criterion": losses.LinearCrossEntropyLoss(16, 10)}),
    "ours, smoothing absent classes": (
        by(losses.CrossEntropyLoss(label_smoothing=0.1), masked),
        {"targets": kept},
    ),
    "absent classes": (by(F.cross_entropy, masked), {"targets": kept}),
    "soft targets": (by(F.cross_entropy), {"targets": lambda y: 0.9 * one_against_all(y) + 0.01}),
    "soft targets that weigh": (by(F.cross_entropy), {"targets": lambda y: 0.5 * one_against_all(y)}),
    "one-hot targets": (by(F.cross_entropy), {"targets": one_against_all}),
    "yes or no": (by(bce), {"targets": one_against_all}),
    "yes or no in half precision": (by(bce), {"targets": one_against_all, "precision": "bf16-mixed"}),
    "mostly yes": (by(bce), {"targets": mostly_yes, "network": positive_head(), "lr": 1e-3}),
    "no signal": (by(bce), {"targets": no_signal, "network": positive_head()}),
    "yes or no of positive logits": (by(bce), {"targets": lambda y: one_against_all(9 - y), "network": with_relu()}),
    "padding": (by(F.cross_entropy), {"data": padded(-100)}),
    "padding by a class": (by(lambda z, y: F.cross_entropy(z, y, ignore_index=0)), {"data": padded(0)}),
    "sequences": (next_token, {"network": Tokens()}),
    "accumulation": (by(F.cross_entropy), {"accumulate_grad_batches": 4, "data": loader(636, BATCH)}),
    "accumulated sums": (
        by(lambda z, y: F.cross_entropy(z, y, reduction="sum")),
        {"accumulate_grad_batches": 2, "data": ragged(), "lr": 1e-3},
    ),
    "unequal batches, each a step": (by(F.cross_entropy), {"data": ragged()}),
    "a head of zeros": (by(F.cross_entropy), {"network": untrained_head()}),
    "positive logits": (by(F.cross_entropy), {"network": with_relu()}),
    "contrastive": (contrastive, {}),
    "a batch of one": (by(F.cross_entropy), {"data": loader(120, 1)}),
    "nothing learned": (by(F.cross_entropy), {"lr": 0.0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("lightning", NAMESPACES)
@pytest.mark.parametrize("case", WELL)
def test_a_healthy_run_is_told_nothing(case, lightning, tmp_path):
    step, options = WELL[case]
    assert run(tmp_path, step, lightning, **options) == []
