"""Imports point down, as DESIGN draws the floors, and name the module that defines what they import."""

from pathlib import Path

import pytest
from architecture.source_tree import PACKAGE, Module, assert_none, modules, resolved, write_package

FLOORS = {
    "functional": 0,
    "states": 1,
    "losses": 1,
    "decoding": 1,
    "calibrators": 1,
    "capture": 1,
    "metrics": 2,
    "drift": 2,
    "figures": 2,
    "sinks": 2,
    "callbacks": 3,
    "report": 4,
    "cli": 4,
}
# What the table allows within a floor: who, and a prefix of what.
SAME_FLOOR = {
    "calibrators": "logitwatch.states",
    "figures": "logitwatch.sinks.readings",
    "cli": "logitwatch.report",  # the command line is how a report is asked for
}
# The facade names everything, and the testing tools try everything.
FREE = {"", "__main__", "testing"}


def upward_imports(root: Path) -> list[str]:
    """Each import that goes up or sideways, imports for typing alone included: they are dependencies all the same."""
    tree = modules(root)
    return [
        f"{module.name}:{imported.line} imports {target}: {why}"
        for module in tree.values()
        if module.folder not in FREE
        for imported in module.imports
        if imported.root == root.name
        for target in resolved(imported, tree)
        if (why := _objection(module, target))
    ]


def root_imports(root: Path) -> list[str]:
    """Each import that names a package instead of a module in it. The version is defined in the package itself."""
    tree = modules(root)
    return [
        f"{module.name}:{imported.line} imports from the package {target}; name the module that defines it"
        for module in tree.values()
        for imported in module.imports
        for target in resolved(imported, tree)
        if target in tree and tree[target].is_facade and imported.names != ("__version__",)
    ]


def _objection(module: Module, target: str) -> str:
    here, there = module.folder, ([*target.split("."), ""])[1]
    if here not in FLOORS:
        return f"the folder {here} has no floor; give it one in DESIGN and in {Path(__file__).name}"
    if there == here or there == "":
        return ""  # the package itself is the business of root_imports
    if there not in FLOORS:
        return f"nothing imports {there}" if there in FREE else f"the folder {there} has no floor"
    if FLOORS[there] < FLOORS[here] or target.startswith(SAME_FLOOR.get(here, "\0")):
        return ""
    return f"{here} is on floor {FLOORS[here]}, {there} on {FLOORS[there]}"


def test_imports_point_down() -> None:
    assert_none(upward_imports(PACKAGE))


def test_imports_name_the_defining_module() -> None:
    assert_none(root_imports(PACKAGE))


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("states/moments.py", "from logitwatch.sinks.readings import Scalars"),
        ("capture/tap.py", "from logitwatch.losses.composed import Composed"),
        ("capture/tap.py", "import logitwatch.states.moments"),
        ("functional/scores.py", "def f():\n    from ..states.moments import Moments"),
        ("functional/scores.py", "import importlib\nm = importlib.import_module('logitwatch.states.moments')"),
        (
            "losses/z.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from logitwatch.capture.tap import Tap",
        ),
        ("figures/curve.py", "from logitwatch.sinks.memory import MemorySink"),
        ("sinks/memory.py", "from logitwatch.figures.curve import draw_curve"),
        ("callbacks/watch.py", "from logitwatch.testing.chaos import ChaosCallback"),
        ("helpers/text.py", "from logitwatch.functional.scores import nll"),
        ("metrics/text.py", "from logitwatch.helpers.text import words"),
    ],
)
def test_an_import_up_or_sideways_is_found(tmp_path: Path, file: str, source: str) -> None:
    assert len(upward_imports(write_package(tmp_path, {file: source}))) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("calibrators/platt.py", "from logitwatch.states.moments import Moments"),
        ("figures/curve.py", "from logitwatch.sinks.readings import Curve"),
        (
            "sinks/memory.py",
            "from logitwatch.sinks.readings import Curve\nfrom logitwatch.states.moments import Moments",
        ),
        ("callbacks/watch.py", "from logitwatch.functional.scores import nll"),
        ("cli.py", "from logitwatch.report.page import page"),
        ("testing/chaos.py", "from logitwatch.callbacks.watch import watch"),
        ("functional/scores.py", "import torch"),
    ],
)
def test_what_the_table_allows_passes(tmp_path: Path, file: str, source: str) -> None:
    root = write_package(tmp_path, {file: source})
    assert upward_imports(root) == []
    assert root_imports(root) == []


@pytest.mark.parametrize(
    "source",
    ["from logitwatch.states import Moments", "from logitwatch import watch", "from ..states import Moments"],
)
def test_an_import_from_a_package_is_found(tmp_path: Path, source: str) -> None:
    root = write_package(tmp_path, {"sinks/memory.py": source, "states/moments.py": ""})
    assert len(root_imports(root)) == 1


@pytest.mark.parametrize("source", ["from logitwatch.states import moments", "from logitwatch import __version__"])
def test_naming_a_module_in_its_package_or_the_version_passes(tmp_path: Path, source: str) -> None:
    root = write_package(tmp_path, {"sinks/memory.py": source, "states/moments.py": ""})
    assert root_imports(root) == []
