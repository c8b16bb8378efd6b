import inspect
import json
import math

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import joined, last, records, texts
from helpers.models import NAMESPACES, loader, model, namespace, net, trainer
from torch import nn

import logitwatch
from logitwatch.callbacks.gradient_monitor import GradientMonitor
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.heads import LinearCall
from logitwatch.capture.observation import Observation
from logitwatch.losses import ConfidencePenalty, CrossEntropyLoss, LinearCrossEntropyLoss, ZLoss
from logitwatch.sinks.glossary import QUANTITIES
from logitwatch.sinks.readings import Alert, Histogram, Scalars, Table
from logitwatch.testing import assert_harmless, check_monitor
from logitwatch.testing.specimen import train

L = namespace("pytorch_lightning")


def batch(rows=200, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, classes, generator=generator), torch.randint(classes, (rows,), generator=generator)


def scalars(monitor, observation, *, rows=None, stage="val"):
    sample = observation if rows is None else observation.sample(rows)
    state = monitor.summary(observation, sample, None, histograms=False)
    values = [r.values for r in monitor.readings(state, Tags(stage), 7) if isinstance(r, Scalars)]
    return {tag.removeprefix(f"gradients/{stage}/"): value for part in values for tag, value in part.items()}


def norms(z, y):
    """Norm of the gradient of each row by autograd, float64 ``[rows]``."""
    leaf = z.double().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(leaf, y, reduction="sum"), leaf)
    return gradient.norm(dim=-1)


def agrees(said, z, y, *, bound=0.01):
    """What is said of the rows is what autograd says of them."""
    expected = norms(z, y)
    # Each norm above the bound is known to 0.1 %, see `RowStatistics.gradient_norm`.
    assert said["norm"] == pytest.approx(expected.mean().item(), rel=1e-3)
    assert said["vanishing"] == pytest.approx((expected < bound).double().mean().item(), abs=1e-12)
    # A tenth of the rows may end amid a row; 1/16 is what the cells of a histogram are good to.
    share = (0.1 * len(expected) - torch.arange(len(expected))).clamp(0, 1)
    hardest = (share * expected.sort(descending=True).values).sum() / expected.sum()
    assert said["hardest_tenth"] == pytest.approx(hardest.item(), rel=1 / 16)


def head_call(logits):
    """A layer that hands on what it is given."""
    return LinearCall(torch.eye(logits.shape[1]), None, logits, logits, logits)


FACTORS = ("logit_scale", "head_norm", "feature_norm", "alignment")


def head_numbers(weight, h):
    """What is to be said of a head, by float64."""
    weight, h = weight.double(), h.double()
    scale = (h @ weight.T).norm(dim=1).mean().item() / math.sqrt(len(weight))
    head, features = weight.norm().item() / math.sqrt(len(weight)), h.norm(dim=1).mean().item()
    return dict(zip(FACTORS, (scale, head, features, scale / (head * features)), strict=True))


def said_of(folder, stage):
    return {t.split("/")[-1]: v for t, v in last(folder).items() if t.startswith(f"gradients/{stage}/")}


def test_it_is_a_good_monitor():
    check_monitor(GradientMonitor)


def test_it_logs_what_its_docstring_lists():
    monitor, seen = GradientMonitor(), Observation.of(*batch())
    seen.head = head_call(seen.logits)
    readings = monitor.readings(monitor.summary(seen, seen, None, histograms=False), Tags("val"), 7)
    tags = [tag for r in readings for tag in (r.values if isinstance(r, Scalars) else [r.tag])]
    names = {n.split("/")[1] for n in QUANTITIES if n.startswith("gradients/")}
    # Terms are those of a loss, which is known in a run alone.
    assert set(tags) == {f"gradients/val/{name}" for name in names if not name.startswith("term_")}
    assert all(f"``{name}/<term>``" in inspect.getdoc(GradientMonitor) for name in ("term_norm", "term_cosine"))
    for tag in tags:
        assert f"``{tag.split('/')[-1]}``" in inspect.getdoc(GradientMonitor), tag


@pytest.mark.parametrize("bound", [0.01, 0.5])
def test_numbers_are_those_of_autograd(bound):
    z, y = batch()
    agrees(scalars(GradientMonitor(bound=bound), Observation.of(z, y)), z, y, bound=bound)


def test_rows_that_do_not_count_are_left_out():
    z, y = batch()
    good = torch.ones(200, dtype=torch.bool)
    good[[3, 4, 5, 6]] = False
    y[3], z[4, 0], z[5, 1], y[6] = -100, math.nan, math.inf, 5
    agrees(scalars(GradientMonitor(), Observation.of(z, y)), z[good], y[good])


def test_the_gradient_on_a_yes_or_no_logit_is_of_that_logit_alone():
    z, y = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 1.0, 0.0])
    leaf = z.double().requires_grad_()
    F.binary_cross_entropy_with_logits(leaf, y.double(), reduction="sum").backward()
    said = scalars(GradientMonitor(), Observation.of(z, y, binary=True))
    assert said["norm"] == pytest.approx(leaf.grad.abs().mean().item(), rel=1e-5)


def test_soft_targets_have_their_gradient():
    z, _ = batch()
    y = batch(seed=1)[0].softmax(-1)
    said = scalars(GradientMonitor(), Observation.of(z, y))
    assert said["norm"] == pytest.approx(norms(z, y.double()).mean().item(), rel=1e-5)


def test_without_targets_there_is_no_gradient_and_the_rows_are_seen():
    monitor, seen = GradientMonitor(), Observation.of(batch()[0])
    assert scalars(monitor, seen) == {}
    assert monitor.rows_in(monitor.summary(seen, seen, None, histograms=False)) == 200


def test_it_counts_the_sample_and_no_more():
    monitor, seen = GradientMonitor(), Observation.of(*batch())
    state = monitor.summary(seen, seen.sample(30), None, histograms=False)
    assert monitor.rows_in(state) == 30
    (histogram,) = [r for r in monitor.readings(state, Tags("train"), 1) if isinstance(r, Histogram)]
    assert sum(histogram.counts) == 30


@pytest.mark.parametrize("stage", ["train", "val"])
def test_the_share_of_each_class_is_a_table_after_a_validation_and_the_largest_a_number_always(stage):
    monitor, (z, y) = GradientMonitor(class_names=["a", "b", "c", "d", "e"]), batch()
    seen = Observation.of(z, y)
    leaf = z.double().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(leaf, y, reduction="sum"), leaf)
    expected = dict(zip("abcde", (gradient.abs().sum(0) / gradient.abs().sum()).tolist(), strict=True))
    readings = monitor.readings(monitor.summary(seen, seen, None, histograms=False), Tags(stage), 7)
    assert scalars(monitor, seen)["largest_class"] == pytest.approx(max(expected.values()), rel=1e-5)  # float32
    tables = [r for r in readings if isinstance(r, Table)]
    assert len(tables) == (stage == "val")
    for table in tables:
        assert {name: share for name, share, *_ in table.rows} == pytest.approx(expected, rel=1e-5)
        assert [name for name, *_ in table.rows] == sorted(expected, key=expected.get, reverse=True)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan])
def test_a_bound_that_is_not_positive_is_refused(bound):
    with pytest.raises(ValueError, match="bound must be > 0, got"):
        GradientMonitor(bound=bound)


@pytest.mark.parametrize("lightning", [namespace(name) for name in NAMESPACES], ids=NAMESPACES)
def test_a_run_is_told_by_autograd_again(lightning, tmp_path):
    subject = model(lightning)
    monitor = GradientMonitor(every_n_steps=1, rows=10**9, on_fault="raise")
    t = trainer(lightning, [monitor], folder=tmp_path, log_every_n_steps=1000)
    t.fit(subject, loader(64), loader(48, start=300))
    for stage in ("train", "val"):
        agrees(said_of(tmp_path, stage), *joined(subject.recorded[stage]))
    # float32
    assert t.callback_metrics["gradients/val/norm"].item() == pytest.approx(said_of(tmp_path, "val")["norm"], rel=1e-6)


def test_a_watched_run_is_the_same_run():
    assert_harmless(lambda: train([GradientMonitor(every_n_steps=1, on_fault="raise")]), lambda: train([]))


def kept_step(module, batch, stage):
    """The usual step, which also keeps what the head is given and what it holds."""
    h = module.net[:-1](batch[0])
    logits = module.net[-1](h)
    module.kept[stage].append((module.net[-1].weight.detach().clone(), h.detach().clone()))
    return F.cross_entropy(module.changed(logits), batch[1])


def fit(folder, monitor, *, step=kept_step, network=None, changed=lambda z: z, lightning=L, **options):
    subject = model(lightning, step, network=network, kept={"train": [], "val": []}, changed=changed)
    t = trainer(lightning, [monitor], folder=folder, **{"log_every_n_steps": 1000} | options)
    t.fit(subject, loader(64), loader(48, start=300))
    return t, subject


def watching(**options):
    return GradientMonitor(**{"every_n_steps": 1, "rows": 10**9, "on_fault": "raise"} | options)


@pytest.mark.parametrize("lightning", [namespace(name) for name in NAMESPACES], ids=NAMESPACES)
@pytest.mark.parametrize("changed", [lambda z: z, torch.clone, torch.Tensor.double], ids=["as is", "copy", "cast"])
def test_the_growth_of_the_logits_is_split_as_float64_says(lightning, changed, tmp_path):
    _, subject = fit(tmp_path, watching(), lightning=lightning, changed=changed)
    for stage, rows in (("train", 64), ("val", 48)):
        each = [head_numbers(weight, h) for weight, h in subject.kept[stage]]
        # Batches of one size: the mean of means.
        expected = {name: sum(numbers[name] for numbers in each) / len(each) for name in FACTORS[:3]}
        expected["alignment"] = expected["logit_scale"] / (expected["head_norm"] * expected["feature_norm"])
        said = said_of(tmp_path, stage)
        assert {name: said[name] for name in FACTORS} == pytest.approx(expected, rel=1e-5)  # float32 norms
        logs = [math.log(said[name]) for name in FACTORS]
        assert logs[0] == pytest.approx(sum(logs[1:]), rel=1e-12)
        (text,) = texts(tmp_path, f"gradients/{stage}/head")
        assert text.startswith(f"Head in {stage}: `net.3`.")
        assert sum(len(h) for _, h in subject.kept[stage]) == rows


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda z: 2 * z, "W h + b of `net.3` differs from the logits"),
        (lambda z: z[:, 1:], "`net.3` was not heard, or"),
    ],
    ids=["scaled", "fewer classes"],
)
def test_logits_that_the_last_layer_did_not_make_are_told_once_a_stage(changed, why, tmp_path, caplog):
    def step(module, batch, stage):
        return kept_step(module, (batch[0], batch[1].clamp(max=8)), stage)

    fit(tmp_path, watching(), changed=changed, step=step, max_epochs=2)
    assert not set(FACTORS) & set(said_of(tmp_path, "val"))
    assert {"norm", "vanishing"} <= set(said_of(tmp_path, "val"))
    (text,) = texts(tmp_path, "gradients/val/head")
    assert why in text
    assert sum(why in record.getMessage() for record in caplog.records) == 2  # training and validation


def test_a_head_that_is_not_registered_last_is_found_by_its_name(tmp_path):
    def step(module, batch, stage):
        return F.cross_entropy(module.net["head"](module.net["body"](batch[0])), batch[1])

    def network():
        return nn.ModuleDict({"head": nn.Linear(16, 10), "body": nn.Linear(64, 16)})

    fit(tmp_path / "named", watching(head="net.head"), step=step, network=network())
    assert set(FACTORS) <= set(said_of(tmp_path / "named", "val"))
    fit(tmp_path / "last", watching(), step=step, network=network())
    assert not set(FACTORS) & set(said_of(tmp_path / "last", "val"))


def test_a_name_of_no_linear_layer_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"head must be the name of a linear layer, one of net.0, net.3; got 'net.9'"):
        fit(tmp_path, watching(head="net.9"))


def test_logits_shifted_against_the_labels_have_the_same_head_though_it_is_tied(tmp_path):
    def step(module, batch, stage):
        tokens = torch.arange(48).reshape(4, 12) % 10
        z = module.net["head"](module.net["body"](tokens))
        return F.cross_entropy(z[:, :-1].contiguous().flatten(0, 1), tokens[:, 1:].flatten())

    network = nn.ModuleDict({"body": nn.Embedding(10, 8), "head": nn.Linear(8, 10, bias=False)})
    network["head"].weight = network["body"].weight
    fit(tmp_path, watching(), step=step, network=network)
    weight = network["head"].weight.detach()
    expected = head_numbers(weight, weight[torch.arange(48) % 10])
    said = said_of(tmp_path, "val")
    assert {name: said[name] for name in FACTORS} == pytest.approx(expected, rel=1e-5)


def test_classes_before_the_positions_and_many_labels_have_their_head(tmp_path):
    def step(module, batch, stage):
        z = module.net(batch[0].reshape(-1, 4, 16))
        if stage == "train":
            return F.cross_entropy(z.transpose(1, 2), batch[1].unsqueeze(1).expand(-1, 4))
        return F.binary_cross_entropy_with_logits(z, z.detach().sigmoid().round())

    fit(tmp_path, watching(), step=step, network=nn.Sequential(nn.Linear(16, 10)))
    for stage in ("train", "val"):
        assert set(FACTORS) <= set(said_of(tmp_path, stage)), stage


def test_half_precision_and_accumulation_have_their_head(tmp_path):
    fit(tmp_path, watching(), precision="bf16-mixed", accumulate_grad_batches=2)
    assert set(FACTORS) <= set(said_of(tmp_path, "train"))


def test_a_run_whose_optimizer_steps_by_hand_has_its_head(tmp_path):
    def step(module, batch, stage):
        loss = kept_step(module, batch, stage)
        if stage == "train":
            optimizer = module.optimizers()
            optimizer.zero_grad()
            module.manual_backward(loss)
            optimizer.step()
        return loss

    subject = model(L, step, manual=True, kept={"train": [], "val": []}, changed=lambda z: z, lr=0.01)
    trainer(L, [watching()], folder=tmp_path, log_every_n_steps=1000).fit(subject, loader(64))
    # The weights are those after the step, which is small.
    assert set(FACTORS) <= set(said_of(tmp_path, "train"))


def test_features_that_grow_while_accuracy_does_not_raise_the_alert_that_names_them(tmp_path):
    def step(module, batch, stage):
        h = module.net[:-1](batch[0]) * 1.5**module.current_epoch
        return F.cross_entropy(module.net[-1](h), batch[1])

    network = net()
    nn.init.zeros_(network[-1].bias)  # it would not grow with the rest
    subject = model(L, step, lr=0.0, network=network)
    t = trainer(L, [watching()], folder=tmp_path, max_epochs=3, log_every_n_steps=4)
    t.fit(subject, loader(64), loader(48, start=300))
    alerts = [r for r in records(tmp_path) if r["kind"] == "alert" and r["rule"] == "logit_growth"]
    assert len(alerts) == 2  # training and validation
    assert all(alert["title"].endswith("and accuracy has not: the norm of the features") for alert in alerts)
    (val,) = [alert for alert in alerts if " in val " in alert["text"]]  # windows of training overlap epochs
    assert "the norm of the head 0%, the norm of the features 100%" in val["text"]
    assert val["values"]["logit_scale"] / val["values"]["before"] == pytest.approx(1.5**2, rel=1e-5)  # float32 norms


def test_what_it_remembers_goes_on_in_another():
    one, other = GradientMonitor(), GradientMonitor()

    def rules(monitor, size):
        z, y = batch()
        seen = Observation.of(size * z, y)
        seen.head = head_call(seen.logits)
        readings = monitor.readings(monitor.summary(seen, seen, None, histograms=False), Tags("val"), 7)
        return [r.rule for r in readings if isinstance(r, Alert)]

    assert rules(one, 1.0) == []
    other.recall(json.loads(json.dumps(one.memory())))
    assert [rules(monitor, 2.5) for monitor in (one, other)] == [["logit_growth"]] * 2


def test_a_checkpoint_that_has_no_memory_of_it_is_no_fault():
    monitor = GradientMonitor()
    before = monitor.memory()
    monitor.recall({})
    assert monitor.memory() == before


def test_a_layer_that_runs_fused_in_evaluation_still_does():
    def step(module, batch, stage):
        h = module.net["encoder"](batch[0].reshape(-1, 4, 16)).mean(1)
        return module.criterion(module.net["head"](h), batch[1])

    def fused_calls(callbacks):
        encoder = nn.TransformerEncoderLayer(16, 2, 8, dropout=0.0, batch_first=True)
        network = nn.ModuleDict({"head": nn.Linear(16, 10), "encoder": encoder})
        fused, seen = torch._transformer_encoder_layer_fwd, []

        def counting(*args):
            seen.append(1)
            return fused(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "_transformer_encoder_layer_fwd", counting)
            subject = model(L, step, network=network, criterion=nn.CrossEntropyLoss())
            trainer(L, callbacks).fit(subject, loader(64), loader(48, start=300))
        return len(seen)

    others = fused_calls([logitwatch.LogitMonitor(every_n_steps=1)])
    assert fused_calls([watching()]) == fused_calls([watching(head="net.head")]) == others == 3


def test_each_term_of_a_loss_of_ours_has_its_gradient_by_autograd(tmp_path):
    def step(module, batch, stage):
        z = module.net(batch[0])
        module.record(stage, z, batch[1])
        return module.criterion(z, batch[1])

    criterion = CrossEntropyLoss(label_smoothing=0.1) + ZLoss(0.01) + 0.5 * ConfidencePenalty(0.2)
    subject = model(L, step, criterion=criterion)
    trainer(L, [watching()], folder=tmp_path, log_every_n_steps=1000).fit(subject, loader(64), loader(48, start=300))
    reported = last(tmp_path)

    def gradient(value, z):
        leaf = z.double().requires_grad_()
        (found,) = torch.autograd.grad(value(leaf), leaf)
        return found.flatten()

    for stage in ("train", "val"):
        said = {name: ([], []) for name in ("cross_entropy", "z_loss", "confidence_penalty")}
        for z, y in subject.recorded[stage]:
            values = {
                "cross_entropy": lambda leaf, y=y: F.cross_entropy(leaf, y, label_smoothing=0.1),
                "z_loss": lambda leaf: 0.01 * leaf.logsumexp(-1).square().mean(),
                "confidence_penalty": lambda leaf: 0.1 * (leaf.softmax(-1) * leaf.log_softmax(-1)).sum(-1).mean(),
            }
            reference = gradient(lambda leaf, y=y: F.cross_entropy(leaf, y), z)
            for name, value in values.items():
                own = gradient(value, z)
                said[name][0].append(own.norm() * len(z) ** 0.5)
                said[name][1].append(F.cosine_similarity(own, reference, dim=0))
        for name, (norms_of_looks, cosines) in said.items():
            # float32 gradients, the mean over looks
            norm, cosine = (torch.stack(values).mean().item() for values in (norms_of_looks, cosines))
            assert reported[f"gradients/{stage}/term_norm/{name}"] == pytest.approx(norm, rel=1e-4), name
            assert reported[f"gradients/{stage}/term_cosine/{name}"] == pytest.approx(cosine, abs=1e-5), name


def test_a_loss_of_ours_is_the_same_run_with_its_gradients_watched():
    def fit_with(callbacks):
        subject = model(L, criterion_step, network=net(dropout=0.3), criterion=CrossEntropyLoss() + ZLoss(0.01))
        t = trainer(L, callbacks, max_epochs=2)
        t.fit(subject, loader(64), loader(48, start=300))
        return t

    assert_harmless(lambda: fit_with([watching()]), lambda: fit_with([]))


def criterion_step(module, batch, stage):
    return module.criterion(module.net(batch[0]), batch[1])


def test_a_loss_that_never_builds_the_logits_has_its_gradients_and_no_head(tmp_path):
    def step(module, batch, stage):
        h = module.net(batch[0])
        module.record(stage, module.criterion.linear(h), batch[1])
        return module.criterion(h, batch[1])

    subject = model(
        L, step, network=nn.Sequential(nn.Linear(64, 16), nn.ReLU()), criterion=LinearCrossEntropyLoss(16, 10)
    )
    trainer(L, [watching()], folder=tmp_path, log_every_n_steps=1000).fit(subject, loader(64), loader(48, start=300))
    for stage in ("train", "val"):
        agrees(said_of(tmp_path, stage), *joined(subject.recorded[stage]))
        assert not set(FACTORS) & set(said_of(tmp_path, stage))
