import inspect
import logging
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import last, records, texts
from helpers.models import NAMESPACES, digits, loader, model, namespace, net, trainer
from torch import nn

import logitwatch
from logitwatch.callbacks import dropout_probe
from logitwatch.callbacks.dropout_probe import DropoutProbe
from logitwatch.callbacks.generators import own_random
from logitwatch.callbacks.tags import Tags
from logitwatch.sinks.glossary import QUANTITIES
from logitwatch.sinks.readings import Scalars
from logitwatch.states.dropout_summary import DropoutSummary
from logitwatch.testing import assert_harmless, check_monitor
from logitwatch.testing.specimen import train

L = namespace("pytorch_lightning")
MEANS = ("predictive_entropy", "expected_entropy", "mutual_information", "logit_variance")


def probe(**options):
    return DropoutProbe(**{"on_fault": "raise"} | options)


def logged_step(module, batch, stage):
    loss = F.cross_entropy(module(batch[0]), batch[1])
    module.log(f"{stage}_loss", loss)
    return loss


def with_forward(lightning, step=logged_step, *, forward=None, **options):
    """A model that has a forward, as those of Lightning do."""
    subject = model(lightning, step, **{"network": net(dropout=0.5)} | options)
    kind = type(subject)
    kind.forward = forward or (lambda self, x: self.net(x))
    return subject


def fit(folder, monitors, *, lightning=L, subject=None, held_out=None, **options):
    subject = with_forward(lightning) if subject is None else subject
    t = trainer(lightning, monitors, folder=folder, **{"log_every_n_steps": 1000} | options)
    t.fit(subject, loader(64), loader(48, start=300) if held_out is None else held_out)
    return t, subject


def said_of(folder):
    return {t.split("/")[-1]: v for t, v in last(folder).items() if t.startswith("dropout/val/")}


def expected_of(subject, rows=16, passes=16, seed=0):
    """The numbers of the first validation batch, by hand."""
    x = digits()[0][300 : 300 + rows]
    dropout = subject.net[2]
    dropout.train()
    with own_random(seed), torch.no_grad():
        z = torch.stack([subject.net(x) for _ in range(passes)])
    dropout.eval()
    return {name: value.item() for name, value in DropoutSummary.of(z).means().items()}


def test_it_is_a_good_monitor():
    check_monitor(DropoutProbe)


def test_it_logs_what_its_docstring_lists():
    state = DropoutSummary.of(torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0)))
    readings = probe().readings(state, Tags("val"), 7)
    tags = [tag for r in readings for tag in (r.values if isinstance(r, Scalars) else [r.tag])]
    assert set(tags) == {name.replace("/", "/val/") for name in QUANTITIES if name.startswith("dropout/")}
    for tag in tags:
        assert f"``{tag.split('/')[-1]}``" in inspect.getdoc(DropoutProbe), tag


@pytest.mark.parametrize("lightning", [namespace(name) for name in NAMESPACES], ids=NAMESPACES)
@pytest.mark.parametrize("options", [{}, {"rows": 5, "passes": 3}], ids=str)
def test_one_line_probes_the_first_batch_of_a_validation(options, lightning, tmp_path):
    t, subject = fit(tmp_path, [probe(**options)], lightning=lightning)
    expected, said = expected_of(subject, **options), said_of(tmp_path)
    assert {name: said[name] for name in MEANS} == pytest.approx(expected, rel=1e-12)
    assert said["mutual_information"] > 0
    assert (said["rows"], said["nonfinite"]) == (options.get("rows", 16), 0)
    (histogram,) = [r for r in records(tmp_path) if r.get("tag") == "dropout/val/histogram"]
    assert sum(histogram["counts"]) == said["rows"]
    # float32
    assert t.callback_metrics["dropout/val/logit_variance"].item() == pytest.approx(said["logit_variance"], rel=1e-6)


def test_the_same_weights_give_the_same_numbers_at_each_validation(tmp_path):
    fit(tmp_path, [probe()], subject=with_forward(L, lr=0.0), max_epochs=3)
    values = [r["value"] for r in records(tmp_path) if r.get("tag") == "dropout/val/logit_variance"]
    assert len(values) == 3
    assert len(set(values)) == 1


@pytest.mark.parametrize("name", NAMESPACES)
def test_a_probed_run_is_the_same_run(name):
    lightning = namespace(name)
    assert_harmless(lambda: train([probe()], lightning=lightning), lambda: train([], lightning=lightning))


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"val_check_interval": 2}], ids=str)
def test_losses_and_weights_keep_every_bit_beside_other_monitors(options):
    def run(monitors):
        return fit(None, monitors, max_epochs=2, **options)[0]

    def others():
        return [logitwatch.LogitMonitor(every_n_steps=1), logitwatch.GradientMonitor(), logitwatch.Recalibrator()]

    assert_harmless(lambda: run([*others(), probe()]), lambda: run(others()))


def test_what_the_module_logs_and_counts_in_a_pass_is_not_of_the_run(tmp_path):
    calls = []

    def forward(self, x):
        calls.append(self.training)
        self.log("forward_mean", x.mean())
        self.log_dict({"again": x.max()})
        return self.net(x)

    def run(monitors):
        return fit(None, monitors, subject=with_forward(L, forward=forward))[0]

    assert_harmless(lambda: run([probe()]), lambda: run([]))
    assert len(calls) == 2 * 7 + 16


def test_a_forward_that_changes_its_inputs_in_place_is_given_the_same_in_each_pass(tmp_path):
    def step(module, batch, stage):
        return F.cross_entropy(module(batch[0].clone()), batch[1])

    said = []
    for name, double in (("in place", lambda x: x.mul_(2.0)), ("copied", lambda x: x * 2.0)):
        subject = with_forward(L, step, lr=0.0, forward=lambda self, x, double=double: self.net(double(x)))
        fit(tmp_path / name, [probe()], subject=subject)
        said.append({mean: said_of(tmp_path / name)[mean] for mean in MEANS})
    assert said[0] == said[1]


def test_every_second_validation_is_probed_and_a_resumed_run_goes_on(tmp_path):
    def steps(folder):
        return [r["step"] for r in records(folder) if r.get("tag") == "dropout/val/rows"]

    def values(folder):
        return [r["value"] for r in records(folder) if r.get("tag") == "dropout/val/logit_variance"]

    def step(module, batch, stage):  # what it drops is by the step, so that a resumed run can be the same run
        with own_random(module.global_step):
            return F.cross_entropy(module(batch[0]), batch[1])

    def run(name, epochs, checkpoint=None):
        options = {"folder": tmp_path / name, "max_epochs": epochs, "log_every_n_steps": 1000}
        t = trainer(L, [probe(every_n_validations=2)], **options)
        t.fit(with_forward(L, step), loader(64), loader(48, start=300), ckpt_path=checkpoint)
        return t

    whole = run("whole", 5)
    assert steps(tmp_path / "whole") == [4, 12, 20]
    first = run("first", 3)
    assert steps(tmp_path / "first") == [4, 12]
    first.save_checkpoint(tmp_path / "saved.ckpt")
    second = run("second", 5, tmp_path / "saved.ckpt")
    assert steps(tmp_path / "second") == [20]
    assert values(tmp_path / "second") == values(tmp_path / "whole")[2:]
    weights = (t.lightning_module.net[0].weight for t in (whole, second))
    assert torch.equal(*weights)


NO_LAYER = "the module has no dropout layer"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: with_forward(L, network=net(dropout=0.0)), NO_LAYER),
        (lambda: model(L, network=net(dropout=0.5)), "it has no forward. Name a method"),
        (lambda: with_forward(L, lambda m, b, s: F.cross_entropy(m.net(b[0]), b[1]), forward=lambda self, x: (x,)),
         "it gives tuple, in which no logits are found. Name a method"),
    ],
    ids=["no dropout", "no forward", "no logits"],
)  # fmt: skip
def test_why_a_module_is_not_probed_is_said_once(make, why, tmp_path, caplog):
    monitor = probe()
    fit(tmp_path, [monitor], subject=make(), max_epochs=3)
    (text,) = texts(tmp_path, "dropout/val/note")
    assert why in text
    assert sum(why in r.getMessage() for r in caplog.records if r.levelno == logging.WARNING) == 1
    assert said_of(tmp_path) == {}
    assert monitor.faults == 0


def test_a_batch_without_a_first_tensor_asks_for_a_method_and_the_method_is_given_all_of_it(tmp_path):
    x, y = (t[300:348] for t in digits())
    held_out = torch.utils.data.DataLoader([{"pixels": a, "digit": b} for a, b in zip(x, y, strict=True)], 16)

    def step(module, batch, stage):
        pixels, digit = batch.values() if isinstance(batch, dict) else batch
        return F.cross_entropy(module.net(pixels), digit)

    def subject():
        made = with_forward(L, step)
        made.answers = lambda batch: {"logits": made.net(batch["pixels"])}
        return made

    fit(tmp_path / "by default", [probe()], subject=subject(), held_out=held_out)
    (text,) = texts(tmp_path / "by default", "dropout/val/note")
    assert "a batch of type dict has no first tensor" in text
    _, probed = fit(tmp_path / "named", [probe(forward="answers")], subject=subject(), held_out=held_out)
    said = said_of(tmp_path / "named")
    assert {name: said[name] for name in MEANS} == pytest.approx(expected_of(probed), rel=1e-12)


def test_a_method_there_is_not_is_refused(tmp_path):
    with pytest.raises(ValueError, match="forward must be the name of a method of the module, got 'answer'"):
        fit(tmp_path, [probe(forward="answer")])


def test_yes_or_no_logits_are_decisions_of_their_own(tmp_path):
    def step(module, batch, stage):
        return F.binary_cross_entropy_with_logits(module(batch[0]), F.one_hot(batch[1], 10).float())

    fit(tmp_path, [probe(rows=10**6)], subject=with_forward(L, step))
    said = said_of(tmp_path)
    assert said["rows"] == 160
    assert said["predictive_entropy"] <= 0.6932  # ln 2


def test_classes_on_another_axis_and_more_rows_than_are_wanted(tmp_path):
    def forward(self, x):
        return self.net(x.view(-1, 1, 64).expand(-1, 3, -1)).transpose(1, 2)

    def step(module, batch, stage):
        return F.cross_entropy(module(batch[0]), batch[1].unsqueeze(1).expand(-1, 3))

    fit(tmp_path, [probe(dim=1, rows=20)], subject=with_forward(L, step, forward=forward))
    assert said_of(tmp_path)["rows"] == 20


def test_the_logits_of_all_passes_stay_within_their_room(tmp_path, monkeypatch):
    monkeypatch.setattr(dropout_probe, "MOST_ELEMENTS", 16 * 10 * 7)
    fit(tmp_path, [probe()])
    assert said_of(tmp_path)["rows"] == 7


def test_a_forward_that_fails_is_isolated_and_the_module_is_put_back(tmp_path, caplog):
    def forward(self, x):
        if self.net[2].training and not self.training:  # amid a pass
            self.log("never", 1.0)
            torch.rand(3)
            raise RuntimeError("boom")
        return self.net(x)

    monitors = []

    def run(made):
        monitors[:] = made
        return fit(None, made, subject=with_forward(L, forward=forward), max_epochs=5)[0]

    assert_harmless(lambda: run([DropoutProbe()]), lambda: run([]))
    probed = DropoutProbe()
    run([probed])
    assert probed.faults == 3  # and then it is switched off
    with pytest.raises(RuntimeError, match="boom"):
        run([probe()])


def test_weights_spread_over_ranks_are_not_probed(monkeypatch):
    module = nn.Linear(1, 1)
    spread = dropout_probe._spread
    assert not spread(SimpleNamespace(model=type("FullyShardedDataParallel", (), {})()), module)
    monkeypatch.setattr(dropout_probe, "world_size", lambda: 2)
    assert spread(SimpleNamespace(model=type("FullyShardedDataParallel", (), {})()), module)
    assert not spread(SimpleNamespace(model=type("DistributedDataParallel", (), {})()), module)
    assert not spread(SimpleNamespace(model=module), module)


@pytest.mark.parametrize(("option", "value"), [("passes", 1), ("every_n_validations", 0), ("rows", 0)])
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be >= "):
        DropoutProbe(**{option: value})


def test_validation_alone_is_probed(tmp_path):
    t = trainer(L, [probe()], folder=tmp_path)
    t.validate(with_forward(L), loader(48, start=300), verbose=False)
    assert said_of(tmp_path)["rows"] == 16
