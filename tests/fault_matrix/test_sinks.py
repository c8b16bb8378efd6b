"""Cases 59 to 64 of the fault matrix but for the signals, case 60, which are in end_to_end/test_signals.py."""

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from end_to_end.recomputed import last, records
from helpers.disks import small_disk
from helpers.models import loader, model, namespace, trainer

import logitwatch
from logitwatch.capture.tap import Tap
from logitwatch.sinks.jsonl import JsonlSink, read_jsonl
from logitwatch.sinks.markdown import table_markdown
from logitwatch.sinks.readings import Scalars
from logitwatch.testing import FaultyLogger

L = namespace("pytorch_lightning")


def weights(callbacks, *, logger=False, folder=None, **options):
    subject = model(L)
    t = trainer(L, callbacks, folder=folder, log_every_n_steps=1, **options)
    if logger is not False:
        t.loggers = logger if isinstance(logger, list) else [logger]
    t.fit(subject, loader(160), loader(32))
    assert t.state.finished
    return list(subject.parameters())


def test_case_59_a_full_disk_costs_the_record_its_place_and_the_run_nothing(tmp_path, monkeypatch, caplog):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    with small_disk(tmp_path / "small", "size=256k") as disk:
        assert all(map(torch.equal, weights(logitwatch.watch(every_n_steps=1), folder=disk), weights([])))
    assert "logits/val/max" in last(elsewhere)  # the whole record is where there was room for it
    assert str(elsewhere) in caplog.text


@pytest.mark.parametrize("every", [1, 3])
def test_case_59_a_logger_that_raises_costs_its_own_readings_which_are_counted(every, tmp_path):
    monitors = logitwatch.watch(every_n_steps=1)
    faulty = FaultyLogger(every=every)
    files = L.loggers.CSVLogger(str(tmp_path))
    assert all(map(torch.equal, weights(monitors, logger=[files, faulty]), weights([])))
    assert faulty.asked >= 3
    assert monitors[0].faults == 3
    assert last(tmp_path)["logitwatch/dropped"] > 3
    assert "logits/val/max" in last(tmp_path)


def test_case_59_a_logger_that_dawdles_is_asked_once_and_then_rarely(tmp_path):
    dawdling = FaultyLogger(error=None, delay=0.5)
    files = L.loggers.CSVLogger(str(tmp_path))
    began = time.monotonic()
    weights(logitwatch.watch(every_n_steps=1), logger=[files, dawdling])
    # Eleven reports: each would have waited half a second, had it been asked each time.
    assert dawdling.asked == 1
    assert time.monotonic() - began < 5
    assert last(tmp_path)["logitwatch/dropped"] > 0


@pytest.mark.parametrize("seed", range(5))
def test_case_61_a_flipped_bit_in_the_record_is_noticed(seed, tmp_path):
    path = tmp_path / "logitwatch.jsonl"
    sink = JsonlSink(path)
    sink.write([Scalars(values={f"logits/train/{i}": i / 7 for i in range(20)}, step=seed)])
    sink.close()
    whole, data = list(read_jsonl(path)), bytearray(path.read_bytes())
    place = int(torch.randint(len(data) - 1, (), generator=torch.Generator().manual_seed(seed)))
    data[place] ^= 1 << (place % 8)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="line"):
        list(read_jsonl(path))
    data[place] ^= 1 << (place % 8)
    path.write_bytes(data)
    assert list(read_jsonl(path)) == whole


HOSTILE = [
    "../../escape",
    "/absolute",
    "nul\0",
    "\u202egnp.exe",
    "=cmd|' /C calc'!A0",
    "<script>x</script>",
    "a" * 10**6,
]


@pytest.mark.parametrize("name", HOSTILE, ids=["up", "absolute", "nul", "rtl", "formula", "script", "megabyte"])
def test_case_62_hostile_names_stay_names(name, tmp_path):
    inside = tmp_path / "inside"
    sink = JsonlSink(inside / "logitwatch.jsonl")
    sink.write([Scalars(values={name: 1.0}, step=0)])
    sink.close()
    assert [record["tag"] for record in read_jsonl(sink.path) if record["kind"] == "scalar"] == [name]
    assert [str(path) for path in tmp_path.rglob("*.jsonl")] == [sink.path]
    text = table_markdown(["token"], [[f"{name[:99]} | ![x](http://tracker/x.png)"]])
    assert "<script>" not in text
    assert "![x](" not in text


def test_case_62_a_source_with_a_hostile_name_writes_below_its_folder_alone(tmp_path):
    inside = tmp_path / "inside"
    monitors = logitwatch.watch(every_n_steps=1, source="../../../escape")
    trainer(L, monitors, folder=inside).fit(model(L), loader(64))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert all(inside in path.parents for path in written)


@pytest.mark.parametrize(
    ("yaml", "why"),
    [
        ("{bugdet: 0.5}", "bugdet"),
        ("{budget: !!python/object/apply:os.system ['true']}", "python/object"),
        ("{budget: 7}", "budget must be in"),
    ],
    ids=["unknown key", "a tag that runs code", "out of range"],
)
def test_case_63_a_configuration_is_read_safely_and_refused_with_a_reason(yaml, why, tmp_path):
    # As users do it, in a process of its own: LightningCLI reads the file.
    path = tmp_path / "monitor.yaml"
    watched = f"trainer: {{callbacks: [{{class_path: logitwatch.LogitMonitor, init_args: {yaml}}}]}}"
    path.write_text(f"{watched}\nmodel: {{criterion: {{class_path: torch.nn.CrossEntropyLoss}}}}\n")
    script = Path(__file__).parents[2] / "examples/cli.py"
    ran = subprocess.run([sys.executable, str(script), "fit", "-c", str(path)], capture_output=True, text=True)
    assert ran.returncode != 0
    assert why in ran.stderr


@pytest.mark.slow
def test_case_64_a_long_run_keeps_its_size(tmp_path):
    process, blocks, counts = psutil.Process(), {}, {}

    class Weighs(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            step = trainer.global_step
            if step in (3000, 8000):
                session = Tap.of(module).listener
                assert all(line.drain(60) for line in session.outlet._lines)  # what is on its way is not kept
                gc.collect()
                blocks[step] = sys.getallocatedblocks()
                tensors = sum(type(kept) is torch.Tensor for kept in gc.get_objects())
                counts[step] = tensors, threading.active_count(), process.num_fds(), len(Tap.of(module)._undo)

    x, y = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2])
    data = torch.utils.data.DataLoader([(x[0], y[0]), (x[1], y[1])] * 1000, batch_size=2)
    # As many loggers as there are backends here; a report at every fifth step.
    logger = [L.loggers.TensorBoardLogger(str(tmp_path)), L.loggers.CSVLogger(str(tmp_path), "csv")]
    t = trainer(L, [*logitwatch.watch(every_n_steps=5), Weighs()], log_every_n_steps=5, max_epochs=8, logger=logger)
    subject = model(L, lambda m, batch, stage: torch.nn.functional.cross_entropy(m.net(batch[0]), batch[1]))
    t.fit(subject, data)
    assert t.global_step == 8000
    assert counts[3000] == counts[8000]
    # One number kept of each report would be 1000 blocks of the interpreter and more; 200 to 300 are seen. The size of
    # the process says less: the pages of an allocator come and go by the megabyte.
    assert blocks[8000] - blocks[3000] < 700
    assert records(tmp_path)
    assert os.path.getsize(next(tmp_path.rglob("logitwatch.jsonl"))) > 0
