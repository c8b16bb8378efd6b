"""Tests mirror the package, one file to one file: ``logitwatch/a/b.py`` is tested in ``tests/a/test_b.py``."""

from collections.abc import Mapping
from pathlib import Path

from architecture.source_tree import PACKAGE, assert_none, modules, write_package

TESTS = Path(__file__).parents[1]
# Modules with no test file of their own, and why.
EXEMPT: dict[str, str] = {
    "logitwatch.sinks.protocol": "a Protocol without code; tests/contracts runs every sink against it",
}


def mirror_faults(root: Path, tests: Path, exempt: Mapping[str, str]) -> list[str]:
    """Public modules without a test file, and exemptions that are no longer true. Facades have their own tests here."""
    wanted = {m.name: _mirror(m.name, tests) for m in modules(root).values() if m.is_public and not m.is_facade}
    untested = [
        f"{name} has no {path.relative_to(tests.parent)}"
        for name, path in wanted.items()
        if not path.exists() and name not in exempt
    ]
    stale = [f"{name} is exempt and needs not be" for name in exempt if name not in wanted or wanted[name].exists()]
    return untested + stale


def _mirror(name: str, tests: Path) -> Path:
    *folders, module = name.split(".")[1:]
    return tests.joinpath(*folders, f"test_{module}.py")


def test_every_public_module_has_its_test_file() -> None:
    assert_none(mirror_faults(PACKAGE, TESTS, EXEMPT))


def test_a_missing_test_file_and_a_stale_exemption_are_found(tmp_path: Path) -> None:
    files = {"cli.py": "", "states/a.py": "", "states/b.py": "", "states/_c.py": "", "states/d.py": ""}
    root = write_package(tmp_path, files)
    (tmp_path / "tests/states").mkdir(parents=True)
    (tmp_path / "tests/states/test_a.py").touch()
    exempt = {"logitwatch.states.d": "a reason", "logitwatch.states.a": "tested now", "logitwatch.states.z": "gone"}
    assert mirror_faults(root, tmp_path / "tests", exempt) == [
        "logitwatch.cli has no tests/test_cli.py",
        "logitwatch.states.b has no tests/states/test_b.py",
        "logitwatch.states.a is exempt and needs not be",
        "logitwatch.states.z is exempt and needs not be",
    ]
