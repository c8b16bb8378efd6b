"""Every example and configuration runs, small; what the README shows is what is here."""

import ast
import gzip
import importlib
import logging
import os
import re
import runpy
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from helpers.wandb_file import offline_wandb, read_wandb, rows

from logitwatch.calibrators import CalibrationWarning
from logitwatch.callbacks.loss_doctor import LossDoctor
from logitwatch.sinks.glossary import QUANTITIES
from logitwatch.sinks.jsonl import read_jsonl

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _as_found(monkeypatch, tmp_path):
    """Examples are programs: they write where they are, and may set what a process has only one of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    threads, random = torch.get_num_threads(), torch.random.get_rng_state()
    torch.set_num_threads(1)  # small work on a shared machine
    logging.disable(logging.INFO)
    with mock.patch.dict(os.environ):
        yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)
    torch.random.set_rng_state(random)


@pytest.fixture(autouse=True)
def ills(monkeypatch):
    """What the loss doctor says. An example shows how a thing is done well, so that is nothing."""
    alerts, said = LossDoctor.alerts, []

    def heard(doctor, stage):
        found = alerts(doctor, stage)
        said.extend(alert.rule for alert in found)
        return found

    monkeypatch.setattr(LossDoctor, "alerts", heard)
    yield said
    assert said == []


def example(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def scalars(folder):
    """Last value of every scalar in the one record below a folder."""
    (path,) = Path(folder).rglob("logitwatch.jsonl")
    return {record["tag"]: record["value"] for record in read_jsonl(path) if record["kind"] == "scalar"}


def test_every_example_is_run_by_a_test():
    named = re.findall(r'(?:example|import_module)\("(\w+)"\)', Path(__file__).read_text(encoding="utf-8"))
    assert {path.stem for path in EXAMPLES.glob("[!_]*.py")} == {name for name in named if name[0] != "_"}


def test_quickstart_prints_what_the_readme_shows(capsys):
    example("quickstart")
    printed = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("logits", "calibr"))]
    shown = [line.split() for line in blocks("text")[0].splitlines()]
    assert [name for name, _ in printed] == [name for name, _ in shown]
    assert all(float(value) >= 0 for _, value in printed)


def test_digits_compares_three_losses(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["digits.py", "--out", str(tmp_path / "digits"), "--epochs", "10"])
    with offline_wandb(tmp_path / "elsewhere"):
        example("digits")["main"]()
    out = capsys.readouterr().out
    for variant in ("cross-entropy", "label-smoothing", "logit-norm"):
        assert re.search(rf"^{variant} +0\.\d{{3}}", out, re.MULTILINE)
        folder = tmp_path / "digits" / variant
        assert list(folder.glob("events.out.tfevents.*"))
        assert any("calibration/val/ece" in row for row in rows(read_wandb(folder)))
        assert scalars(folder)["logitwatch/faults"] == 0
    assert f"tensorboard --logdir {tmp_path / 'digits'}" in out


def test_digits_leaves_an_earlier_run_alone(monkeypatch, tmp_path):
    (tmp_path / "digits").mkdir()
    monkeypatch.setattr(sys, "argv", ["digits.py", "--out", str(tmp_path / "digits"), "--epochs", "10"])
    program = example("digits")
    program["CRITERIA"].pop("label-smoothing")
    program["CRITERIA"].pop("logit-norm")
    with offline_wandb(tmp_path / "elsewhere"):
        program["main"]()
    assert not list((tmp_path / "digits").iterdir())
    assert scalars(tmp_path / "digits-2")


def test_losses_logs_every_term():
    seen = example("losses")["main"](epochs=2)
    both = seen["cross-entropy and z-loss"]
    assert {"losses/val/cross_entropy", "losses/val/z_loss"} <= both.keys()
    assert abs(both["logits/val/log_partition"]) < abs(seen["cross-entropy"]["logits/val/log_partition"])


def test_recalibration_lowers_the_nll():
    before, after = example("recalibration")["main"](epochs=6)
    assert after < before


def test_early_stopping_follows_refinement():
    trainer = example("early_stopping")["main"](epochs=4)
    assert trainer.early_stopping_callback.best_score == trainer.checkpoint_callback.best_model_score
    assert Path(trainer.checkpoint_callback.best_model_path).exists()


def test_attention_grows_where_nothing_normalises_queries_and_keys():
    usual, normed = example("attention")["main"](epochs=3).values()
    assert normed["attention/val/max_logit"] <= normed["attention/val/max_logit_bound"] <= 4.01  # sqrt(16)
    assert usual["attention/val/max_logit"] > 4 * normed["attention/val/max_logit"]


def test_stability_leaves_out_what_is_not_finite():
    accuracy = example("stability")["main"](epochs=6)
    assert accuracy["warn"] < 0.2
    assert accuracy["skip_step"] > 0.8


def test_explicit_hands_over_logits_of_an_unknown_loss():
    seen = example("explicit")["main"](epochs=2)
    assert seen["calibration/val/accuracy"] > 0.5


def test_calibrators_compares_them_on_rows_that_nothing_has_seen(capsys):
    with pytest.warns(CalibrationWarning, match="MatrixScaling fits 110 numbers to 500 rows"):
        table = example("calibrators")["main"](splits=2)
    before, scaled, matrix = table["as it is"], table["temperature"], table["matrix"]
    assert scaled["accuracy"] == before["accuracy"]
    assert scaled["ece"] < before["ece"] / 4
    assert scaled["ece"] < matrix["ece"]
    assert table["matrix, off_diagonal=0.1"]["nll"] < matrix["nll"] < before["nll"]
    assert re.search(r"^temperature +0\.\d{4} ", capsys.readouterr().out, re.MULTILINE)


def write_clothing(folder):
    """Three pieces of it, in the files of the package."""
    for part in ("images-idx3", "labels-idx1"):
        header, numbers = (bytes(16), bytes([0, 51, 255]) * 784) if part[0] == "i" else (bytes(8), bytes([9, 0, 5]))
        (folder / f"t10k-{part}-ubyte.gz").write_bytes(gzip.compress(header + numbers))


def test_fashion_reads_the_files_of_the_package(tmp_path):
    write_clothing(tmp_path)
    images, labels = importlib.import_module("_fashion").fashion("t10k", tmp_path)
    assert images.shape == (3, 784)
    assert images[0, :4].tolist() == pytest.approx([0, 0.2, 1, 0])
    assert labels.tolist() == [9, 0, 5]


@pytest.mark.slow
def test_z_loss_pulls_the_log_partition_to_zero(monkeypatch, tmp_path):
    # As a module, of which the figure is drawn too.
    program = importlib.import_module("z_loss")
    monkeypatch.setattr(program, "RATES", (0.03,))
    monkeypatch.setattr(program, "LOOKS", 2)
    found = program.main(out=str(tmp_path), seeds=1, steps=100)
    free, held = (found[name, 0.03][0]["logits/val/log_partition"] for name in ("no z-loss", "ZLoss(1e-2)"))
    assert len(free) == len(held) == 2
    assert 0 < held[-1] < free[-1] - 0.5
    assert found["ZLoss(1e-2)", 0.03][0]["logits/val/nll"][-1] < 4
    drawn = runpy.run_path(str(ROOT / "docs/loss_figures.py"))["of_z_loss"](found, 100)
    (panel,) = drawn.axes
    assert [text.get_text() for text in panel.texts] == list(program.CRITERIA)


def test_logit_norm_holds_the_norm_that_cross_entropy_lets_grow(monkeypatch, tmp_path):
    write_clothing(tmp_path)
    program = importlib.import_module("logit_norm")
    found = program.main(out=str(tmp_path), seeds=2, epochs=3, folder=tmp_path)
    (grown, *_), (held, *_) = (found[name]["logged"] for name in ("cross-entropy", "LogitNorm"))
    assert grown["logits/train/norm"][-1] > 3 * grown["logits/train/norm"][0]
    assert max(held["logits/train/norm"]) < grown["logits/train/norm"][-1] / 2
    drawn = runpy.run_path(str(ROOT / "docs/loss_figures.py"))["of_logit_norm"](found)
    assert [text.get_text() for text in drawn.axes[0].texts] == list(program.CRITERIA)


def test_logit_norm_judges_a_separation():
    separation = importlib.import_module("logit_norm").separation
    digits, clothing = torch.tensor([[9.0, 0.0]] * 40), torch.tensor([[1.0, 0.0]] * 10)
    perfect, none = separation(digits, clothing), separation(digits, digits)
    assert {name[:5]: value for name, value in perfect.items()} == {"AUROC": 1, "FPR95": 0}
    assert {name[:5]: value for name, value in none.items()} == {"AUROC": 0.5, "FPR95": 1}


def test_own_monitor_passes_the_checks_of_every_monitor(monkeypatch, ills):
    # What it explains of its own is not to be found in the glossary by the tests after this one.
    monkeypatch.setattr("logitwatch.sinks.glossary.QUANTITIES", QUANTITIES.copy())
    # As a module, since classes that are checked are pickled too.
    assert 0 < importlib.import_module("own_monitor").main(epochs=2) < 9
    assert ills == ["loss_foreign_targets"]  # one of the things the checks try a monitor on
    ills.clear()


def test_reliability_draws_what_a_temperature_mends(tmp_path):
    before, after = example("reliability")["main"](out=str(tmp_path))
    assert after < before
    for name in ("reliability.png", "recalibration.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_language_model_counts_the_padding(tmp_path):
    program = example("language_model")
    program["main"](out=str(tmp_path), steps=5)
    padding = sum(int((row[1:] == -100).sum()) for row in program["paragraphs"]()[:200])
    assert scalars(tmp_path)["logits/val/ignored"] == padding > 0


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")  # Lightning's own
@pytest.mark.parametrize("namespace", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_configurations_run_in_both_namespaces(namespace, config, tmp_path, monkeypatch):
    small = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=3", f"--trainer.default_root_dir={tmp_path}"]
    monkeypatch.delitem(sys.modules, "cli", raising=False)
    cli = importlib.import_module("cli")  # jsonargparse asks for the module of a class by name
    monkeypatch.setattr(sys, "argv", ["cli.py", "--namespace", namespace, "fit", "-c", str(config), *small])
    cli.main()
    seen = scalars(tmp_path)
    assert seen["calibration/val/ece"] > 0
    assert seen["logitwatch/faults"] == 0


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readme_shows_the_quickstart_and_a_configuration_as_they_are():
    assert (EXAMPLES / "quickstart.py").read_text(encoding="utf-8") in blocks("python")
    assert yaml.safe_load(blocks("yaml")[0]) == yaml.safe_load((ROOT / "configs/digits.yaml").read_text("utf-8"))


def test_the_readme_imports_what_there_is():
    imports = [
        ast.unparse(node)
        for block in blocks("python")
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert any("logitwatch" in line for line in imports)
    for line in imports:
        exec(line, {})


def test_the_readme_links_to_what_there_is():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert any(link.endswith(".png") for link in links)
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert [link for link in links if link not in anchors and not (ROOT / link).exists()] == []


def test_the_readme_explains_signals_that_exist():
    tags = re.findall(r"^\| `(\w+)/…/(\w+)`", README, re.MULTILINE) + re.findall(
        r"^\| `(logitwatch)/(\w+)`", README, re.MULTILINE
    )
    assert len(tags) > 10
    assert [tag for tag in map("/".join, tags) if tag not in QUANTITIES] == []
