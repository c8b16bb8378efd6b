"""A run interrupted, terminated or killed at any moment leaves files that read, and loses one window at most."""

import os
import random
import signal
import time
from collections import Counter

import pytest
import torch
from helpers.digit_runs import BATCH, REPORT_EVERY, progress
from helpers.event_files import accumulated
from helpers.forked import ForkServer, wait_for
from helpers.models import NAMESPACES

from logitwatch.sinks.jsonl import read_jsonl

pytestmark = pytest.mark.slow

SEEDS = range(50)
# Lightning's own: after Ctrl-C it exits with 1; SIGTERMException is a SystemExit without a code.
EXIT_CODES = {signal.SIGINT: 1, signal.SIGTERM: 0, signal.SIGKILL: -signal.SIGKILL}


@pytest.fixture(scope="module")
def server():
    server = ForkServer("helpers.digit_runs")
    yield server
    server.close()


def stopped(server, folder, sent, seed):
    """Train until a signal comes at a random moment; steps begun and steps completed then."""
    chance = random.Random(seed)
    delay = 0.0 if seed % 10 == 0 else chance.uniform(0, 0.3)
    pid = server.start("train", str(folder), NAMESPACES[seed // 2 % 2], seed % 2 == 1)
    wait_for(lambda: progress(folder), "training")
    time.sleep(delay)
    os.kill(pid, sent)
    assert server.ended(pid) == EXIT_CODES[sent]
    with pytest.raises(ProcessLookupError):  # nothing of its group is left
        os.killpg(pid, 0)
    return progress(folder)


def reported(folder):
    """The record of a run, whole: ``(tag, step)`` once each; the rows of every report of the training."""
    path = folder / "run" / "version_0" / "logitwatch.jsonl"
    records = [r for r in (read_jsonl(path) if path.exists() else ()) if r["kind"] != "header"]
    twice = {place: n for place, n in Counter((r["tag"], r["step"]) for r in records).items() if n > 1}
    assert not twice
    return [(r["step"], r["value"]) for r in records if r["tag"] == "logits/train/rows"]


def shown(folder):
    """What TensorBoard reads of the same, where the run had its logger; None where not."""
    if not (folder / "events").exists():
        return None
    accumulator = accumulated(folder / "events" / "version_0")
    if "logits/train/rows" not in accumulator.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in accumulator.Scalars("logits/train/rows")]


def steps_in(reports):
    return sum(rows for _, rows in reports) / BATCH


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_run_that_is_told_to_stop_reports_every_step_on_the_way_out(sent, seed, server, tmp_path):
    begun, completed = stopped(server, tmp_path, sent, seed)
    reports = reported(tmp_path)
    assert completed <= steps_in(reports) <= begun
    assert shown(tmp_path) in (None, reports)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_run_loses_one_window_and_the_step_in_hand_at_most(seed, server, tmp_path):
    begun, _ = stopped(server, tmp_path, signal.SIGKILL, seed)
    reports = reported(tmp_path)
    assert begun - REPORT_EVERY - 1 <= steps_in(reports) <= begun
    # TensorBoard's writer keeps up to two minutes to itself: of its file only a beginning is there.
    on_page = shown(tmp_path) or []
    assert on_page == reports[: len(on_page)]


@pytest.mark.parametrize("seed", [11, 22, 33, 44, 55])
def test_a_killed_run_goes_on_in_its_folder_as_if_nothing_had_been(seed, server, tmp_path):
    begun, _ = stopped(server, tmp_path, signal.SIGKILL, seed)
    checkpoint, saved = last_checkpoint(tmp_path)
    until = begun + 8
    pid = server.start("train", str(tmp_path), NAMESPACES[seed // 2 % 2], seed % 2 == 1, checkpoint, until)
    assert server.ended(pid, timeout=60) == 0
    assert steps_in(reported(tmp_path)) == until if saved else until


def last_checkpoint(folder):
    """The last that can be read, and its step: Lightning writes in place, so the kill may have cut one short."""
    paths = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda path: int(path.stem.rpartition("=")[2]))
    for path in reversed(paths):
        try:
            return str(path), torch.load(path, weights_only=True)["global_step"]
        except (RuntimeError, EOFError):
            continue
    return None, 0
