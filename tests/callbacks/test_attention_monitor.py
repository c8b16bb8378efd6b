import inspect
import json
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from end_to_end.recomputed import last, records, scalars
from end_to_end.test_resume import Resumable
from helpers.models import NAMESPACES, loader, model, namespace, trainer
from torch import nn

import logitwatch
from logitwatch.callbacks.attention_monitor import AttentionMonitor
from logitwatch.callbacks.tags import Tags
from logitwatch.capture.attention import AttentionEar
from logitwatch.capture.look import Look
from logitwatch.sinks.readings import Alert
from logitwatch.testing import check_monitor

L = namespace("pytorch_lightning")
TOKENS, WIDTH, HEADS = 8, 8, 2


class Block(nn.Module):
    """Causal attention by hand, whose logits are as large as they are asked to be."""

    def __init__(self, factor=1.0, dropout=0.0):
        super().__init__()
        self.qkv, self.factor, self.dropout = nn.Linear(WIDTH, 3 * WIDTH), factor, dropout

    def forward(self, x):
        q, k, v = (part.reshape(len(x), TOKENS, HEADS, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q * self.factor, k, v, is_causal=True, dropout_p=self.dropout)
        return x + attended.transpose(1, 2).reshape(x.shape)


class Eager(Block):
    """The same written as matmul and softmax, as transformers does it in its eager attention."""

    def forward(self, x):
        q, k, v = (part.reshape(len(x), TOKENS, HEADS, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        weights = torch.matmul(q, k.transpose(2, 3)) * (WIDTH // HEADS) ** -0.5
        weights = weights + torch.full((TOKENS, TOKENS), torch.finfo(weights.dtype).min).triu(1)
        weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(q.dtype)
        return x + torch.matmul(weights, v).transpose(1, 2).reshape(x.shape)


def network(*blocks):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = [block() for block in blocks]
        return nn.Sequential(nn.Unflatten(1, (TOKENS, WIDTH)), *made, nn.Flatten(), nn.Linear(TOKENS * WIDTH, 10))


def large():
    return Block(1e4)


def watching(**options):
    return AttentionMonitor(**{"every_n_steps": 1, "on_fault": "raise", **options})


def fit(folder, *blocks, lightning=L, monitor=None, data=None, **options):
    subject = model(lightning, network=network(*blocks))
    t = trainer(lightning, [monitor or watching()], folder=folder, **options)
    t.fit(subject, data or loader(64), loader(48, start=300))
    return t


def said_of(folder, stage):
    return {t.split("/")[-1]: v for t, v in last(folder).items() if t.startswith(f"attention/{stage}/")}


def kinds(folder, kind):
    return [record for record in records(folder) if record["kind"] == kind]


def test_it_is_a_good_monitor():
    check_monitor(AttentionMonitor)


class Attends(AttentionMonitor):
    """Takes the logits of a criterion for queries and keys, so that what it says is checked too."""

    def __init__(self, *, query_rows: int = 32):
        super().__init__(query_rows=query_rows)

    def summary(self, observation, sample, terms, *, histograms):
        ear = AttentionEar({}, 10**9, lambda device: torch.Generator(device))
        if not observation.logits.is_meta:
            q = observation.logits[:, None, None, :].expand(-1, 1, 5, -1)
            ear.hear(F.scaled_dot_product_attention, (q, q, q), {})
        look = Look(observation.stage)
        look.attention = ear
        return self.beside(look)


def test_it_is_a_good_monitor_where_there_is_attention_too():
    check_monitor(Attends)


def test_every_option_is_a_keyword_that_json_can_say():
    options = inspect.signature(AttentionMonitor).parameters.values()
    assert {p.kind for p in options} == {inspect.Parameter.KEYWORD_ONLY}
    json.dumps({p.name: p.default for p in options})


@pytest.mark.parametrize(("option", "value"), [("query_rows", 0), ("tau", 0.0), ("tau", math.nan)])
def test_options_that_make_no_sense_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} must be > ?=? ?.*, got"):
        AttentionMonitor(**{option: value})


@pytest.mark.parametrize("space", NAMESPACES)
def test_a_run_tells_of_every_layer_and_head(space, tmp_path):
    t = fit(tmp_path, Block, Block, lightning=namespace(space))
    for stage, batches in (("train", 4), ("val", 3)):
        said = said_of(tmp_path, stage)
        assert set(said) == {
            *("max_logit", "max_logit_bound", "entropy", "entropy_min", "rows", "nonfinite", "unread", "left_out"),
        }
        assert said["rows"] == batches * 2 * HEADS * 32  # layers, heads, query rows
        assert 0 < said["max_logit"] <= said["max_logit_bound"]
        assert 0 < said["entropy_min"] <= said["entropy"] <= 1
        assert said["nonfinite"] == said["unread"] == said["left_out"] == 0
        maps = {r["tag"].split("/")[-1]: r for r in kinds(tmp_path, "heatmap") if r["tag"].split("/")[1] == stage}
        assert set(maps) == {"max_logit_by_head", "entropy_by_head"}
        for record in maps.values():
            assert record["row_labels"] == ["net.1", "net.2"]
            assert record["column_labels"] == ["head 0", "head 1"]
        # Four digits of each.
        assert max(max(row) for row in maps["max_logit_by_head"]["values"]) == pytest.approx(
            said["max_logit"], rel=1e-3
        )
        assert min(min(row) for row in maps["entropy_by_head"]["values"]) == pytest.approx(
            said["entropy_min"], rel=1e-3
        )
    assert t.callback_metrics["attention/val/max_logit"].item() == pytest.approx(said["max_logit"], rel=1e-6)


def test_large_logits_and_collapsed_heads_raise_alerts_that_say_what_to_do(tmp_path, caplog):
    fit(tmp_path, Block, large, log_every_n_steps=2)
    alerts = kinds(tmp_path, "alert")
    growth = [a for a in alerts if a["rule"] == "attention_logit_growth"]
    collapse = [a for a in alerts if a["rule"] == "attention_entropy_collapse"]
    # Once in training, which has two reports, and once in validation.
    assert [a["level"] for a in growth] == ["warning", "warning"] or "critical" in {a["level"] for a in growth}
    assert len(growth) == len(collapse) == 2
    assert "net.2, head" in growth[0]["title"]
    assert "net.2 2 of 2" in collapse[0]["text"]
    assert last(tmp_path)["alerts/attention_entropy_collapse"] == 2
    assert "An attention logit of" in caplog.text


def test_where_all_is_well_nothing_is_said(tmp_path, caplog):
    fit(tmp_path, Block)
    assert kinds(tmp_path, "alert") == []
    assert [r.message for r in caplog.records if "attention" in r.message] == []


def test_attention_that_can_not_be_seen_is_said_so_once_for_each_stage(tmp_path, caplog):
    fit(tmp_path, Eager, max_epochs=2)
    said = [r.message for r in caplog.records if "no attention was seen" in r.message]
    assert len(said) == 2
    assert "no attention was seen in train so far" in said[0]
    assert "no attention was seen in val so far" in said[1]
    assert "attn_implementation='eager': take 'sdpa'" in said[0]
    assert said_of(tmp_path, "train") == {}


class AddsZero(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, add_zero_attn=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


def test_calls_that_can_not_be_read_are_counted_and_said_once(tmp_path, caplog):
    fit(tmp_path, AddsZero, Block)
    said = [r.message for r in caplog.records if "could not be read" in r.message]
    assert len(said) == 2
    assert "multi_head_attention_forward: keys besides those of the sequence" in said[0]
    assert said_of(tmp_path, "train")["unread"] == 4


def test_more_heads_than_places_are_counted_and_said_once(tmp_path, caplog):
    class Wide(nn.Module):
        def forward(self, x):
            q = x.reshape(len(x), 1, TOKENS, WIDTH).expand(-1, 70, -1, -1)
            return F.scaled_dot_product_attention(q, q, q).mean(1)

    fit(tmp_path, Wide, Block)
    assert said_of(tmp_path, "train")["left_out"] == 4 * 6
    assert sum("128 layers and 64 heads" in r.message for r in caplog.records) == 2


def test_a_fault_in_attention_disarms_this_monitor_alone(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no room")

    monkeypatch.setattr("logitwatch.capture.attention.sampled_heads", fail)
    subject = model(L, network=network(Block))
    monitors = [AttentionMonitor(every_n_steps=1), logitwatch.LogitMonitor(every_n_steps=1)]
    t = trainer(L, monitors, folder=tmp_path)
    t.fit(subject, loader(128), loader(48, start=300))
    assert monitors[0].faults == 3
    assert last(tmp_path)["logits/train/rows"] == 128
    assert said_of(tmp_path, "train") == {}


def test_its_work_amid_the_step_is_charged(tmp_path, monkeypatch):
    import time

    now = logitwatch.capture.attention.sampled_heads
    clock = {"extra": 0.0}
    monkeypatch.setattr(time, "thread_time", lambda: time.process_time() + clock["extra"])

    def slow(*args, **kwargs):
        clock["extra"] += 100.0
        return now(*args, **kwargs)

    monkeypatch.setattr("logitwatch.capture.attention.sampled_heads", slow)
    fit(tmp_path, Block, log_every_n_steps=2)
    # All the time there is went into it.
    assert last(tmp_path)["logitwatch/overhead"] > 0.95


def trained(folder, *, steps=16, resume=None, save=None):
    """Steps of an epoch of 40, looked at each and reported every sixth; saved on the way, amid a window."""

    class Saves(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if save is not None and trainer.global_step == 9:
                trainer.save_checkpoint(save)

    monitor = watching()
    options = {"max_steps": steps, "max_epochs": -1, "log_every_n_steps": 6, "limit_val_batches": 0}
    t = trainer(L, [monitor, Saves()], folder=folder, **options)
    t.fit(model(L, network=network(Block, large)), Resumable(loader(640)), ckpt_path=resume)
    return monitor


def test_a_resumed_run_goes_on_amid_the_window_and_the_episode(tmp_path):
    checkpoint = tmp_path / "amid.ckpt"
    trained(tmp_path / "whole", save=checkpoint)
    saved = torch.load(checkpoint, weights_only=True)  # plain tensors and numbers
    assert sum("AttentionMonitor" in key for key in saved["callbacks"]) == 1
    monitor = trained(tmp_path / "rest", resume=checkpoint)
    whole, rest = scalars(tmp_path / "whole"), scalars(tmp_path / "rest")
    tags = [tag for tag in rest if tag.startswith("attention/train/")]
    assert len(tags) == 8
    for tag in tags:
        assert [step for step, _ in rest[tag]] == [12, 16]
        assert rest[tag] == [(step, value) for step, value in whole[tag] if step > 9], tag
    assert monitor.memory()["layers"] == ["net.1", "net.2"]
    # The episodes began before.
    assert {a["rule"] for a in kinds(tmp_path / "whole", "alert")} >= {"attention_entropy_collapse"}
    assert kinds(tmp_path / "rest", "alert") == []


def test_a_memory_that_does_not_fit_changes_nothing():
    monitor = AttentionMonitor()
    with pytest.raises(KeyError):
        monitor.recall({"history": {"told": {}, "collapsed": {}}})
    assert monitor.memory()["layers"] == []
    monitor.recall({})


def test_layers_keep_their_places_over_a_resume():
    monitor = AttentionMonitor()
    monitor.recall({**AttentionMonitor().memory(), "layers": ["net.2", "net.1"]})
    assert monitor.memory()["layers"] == ["net.2", "net.1"]


def test_a_prediction_is_told_without_alerts(tmp_path):
    subject = model(L, network=network(large))
    t = trainer(L, [watching()], folder=tmp_path)
    t.predict(subject, loader(32))
    monitor = AttentionMonitor()
    assert monitor.readings(monitor.empty(torch.device("cpu")), Tags("predict"), 0) == []
    assert kinds(tmp_path, "alert") == []


def test_what_was_said_in_one_run_is_said_again_in_the_next(tmp_path, caplog):
    monitor = watching()
    for name in ("one", "two"):
        fit(tmp_path / name, Eager, monitor=monitor)
    assert sum("no attention was seen in train" in r.message for r in caplog.records) == 2
    assert logging.getLogger("logitwatch").name == "logitwatch"


def test_an_alert_is_of_training_and_validation_alone():
    monitor = AttentionMonitor()
    q = 100 * torch.randn(2, 1, 5, 8, generator=torch.Generator().manual_seed(0))
    for stage, expected in (("predict", 0), ("test", 0), ("val", 2)):
        look = Look(stage)
        look.attention = AttentionEar({}, 32, lambda device: torch.Generator(device))
        look.attention.hear(F.scaled_dot_product_attention, (q, q, q), {})
        readings = monitor.readings(monitor.beside(look), Tags(stage), 3)
        assert sum(isinstance(reading, Alert) for reading in readings) == expected
