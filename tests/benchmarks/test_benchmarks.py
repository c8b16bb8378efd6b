"""The benchmarks run and print what they promise. How fast anything is says a quiet machine, not a test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.protocol import pack

ROOT = Path(__file__).parents[2]


def printed_table(script: str, *arguments: str) -> list[dict[str, str]]:
    """The table a benchmark printed, by column."""
    output = subprocess.run(
        [sys.executable, f"benchmarks/{script}", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    lines = [line.strip("| ").split("|") for line in output.splitlines() if line.startswith("|")]
    columns, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(columns, row, strict=False)) for row in rows]


@pytest.mark.slow
def test_step_time_compares_every_arm_with_none(tmp_path: Path) -> None:
    file = tmp_path / "step_time.json"
    table = printed_table(
        "step_time.py", *("--tasks", "digits", "--rounds", "2", "--steps", "12", "--skip", "4", "--json", str(file))
    )
    arms = ["none", "control", "suite", "naive", "torchmetrics", "add_histogram"]
    assert [(row["span"], row["arm"]) for row in table] == [(span, arm) for span in ("whole", "steady") for arm in arms]
    assert all(float(row["cpu ms"]) > 0 and float(row["wall ms"]) > 0 for row in table)
    assert {row["cpu ×"] for row in table if row["arm"] == "none"} == {"1.000"}
    written = json.loads(file.read_text(encoding="utf-8"))
    assert [row["arm"] for row in written["table"]] == arms * 2
    assert {arm: len(rounds) for arm, rounds in written["seconds"]["digits"].items()} == dict.fromkeys(arms, 2)


def test_wide_loss_compares_our_loss_with_that_of_torch() -> None:
    table = printed_table("wide_loss.py", "--shapes", "4x20000", "8x5", "--rounds", "2")
    arms = ["torch", "control", "ours", "ours, lending"]
    assert [(row["shape"], row["arm"]) for row in table] == [(s, arm) for s in ("4x20000", "8x5") for arm in arms]
    assert all(float(row["cpu ×"]) > 0 for row in table)


def test_linear_loss_compares_our_loss_with_a_head_and_the_loss_of_torch() -> None:
    table = printed_table("linear_loss.py", "--shapes", "32x4x3000", "--dtypes", "float32", "--rounds", "2")
    assert [row["arm"] for row in table] == ["plain", "control", "ours", "ours, lending"]
    assert all(float(row["cpu ×"]) > 0 and float(row["peak MB"]) > 0 for row in table)
    assert all(float(row["error"]) < 1e-5 for row in table)


def test_calibration_state_compares_the_sketch_with_torchmetrics_and_relplot() -> None:
    table = printed_table("calibration_state.py", "--shapes", "8x5", "--samples", "500", "--rounds", "2")
    *rows, _, _, sizes = table  # the table of sizes has a header and a rule of its own
    wanted = [("update", "8x5", arm) for arm in ("torchmetrics", "control", "ours", "ours, rows known")]
    wanted += [("smooth_ece", "500", arm) for arm in ("relplot", "control", "ours")]
    assert [(row["task"], row["size"], row["arm"]) for row in rows] == wanted
    assert all(float(row["cpu ×"]) > 0 for row in rows)
    # Below the columns of the other table: 500 rows twice in float32, and a state that does not know how many.
    assert (sizes["task"], sizes["size"], sizes["arm"]) == ("bytes", "500", "4000")
    assert int(sizes["cpu ×"]) == pack(CalibrationSketch.empty()).sums.nbytes


def test_drift_rules_counts_false_alarms_and_what_was_found(tmp_path: Path) -> None:
    file = tmp_path / "drift_rules.json"
    rules = ["Lightning SpikeDetection", "Megatron", "OLMo, 6 sigma of 128", "3 sigma of 100", "Cusum"]
    table = printed_table(
        *("drift_rules.py", "--noises", "Gaussian", "--rules", *rules),
        *("--seeds", "2", "--steps", "2000", "--json", str(file)),
    )
    found = {row["rule"]: row["20 sd, 10 steps"] for row in table}
    assert found == dict(zip(rules, ["0/2", "0/2", "2/2", "2/2", "2/2"], strict=True))
    blind = {row["rule"]: row["0.01 a step"] for row in table}
    assert (blind["OLMo, 6 sigma of 128"], blind["Cusum"]) == ("0/2", "2/2")
    false = {row["rule"]: float(row["false alarms"]) for row in table}
    assert false["Lightning SpikeDetection"] == false["Cusum"] == 0 < false["3 sigma of 100"]
    written = json.loads(file.read_text(encoding="utf-8"))
    assert [row["rule"] for row in written["table"]] == rules
