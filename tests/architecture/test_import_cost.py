"""``import logitwatch`` costs Python alone; functions, losses and calibrators cost torch alone."""

import subprocess
import sys
from pathlib import Path

import pytest

import logitwatch

# A .pth file may have loaded something before the first line of ours, so the roots are counted from there.
PROBE = """
import sys
before = set(sys.modules)
{statement}
roots = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(roots - set(sys.stdlib_module_names)))
"""


def third_party(statement: str, *, cwd: Path) -> set[str]:
    """Roots of the modules outside the standard library that a statement loads in a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.fixture(scope="module")
def torch_alone(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return third_party("import torch", cwd=tmp_path_factory.mktemp("torch_alone"))


def test_the_package_itself_loads_no_third_party_module(tmp_path: Path) -> None:
    assert third_party("import logitwatch; dir(logitwatch)", cwd=tmp_path) == {"logitwatch"}


@pytest.mark.parametrize("module", ["calibrators", "functional", "losses"])
def test_functions_losses_and_calibrators_load_torch_and_nothing_else(
    module: str, tmp_path: Path, torch_alone: set[str]
) -> None:
    assert third_party(f"import logitwatch.{module}", cwd=tmp_path) == torch_alone | {"logitwatch"}


def test_the_probe_sees_what_a_module_loads(tmp_path: Path) -> None:
    (tmp_path / "costly.py").write_text("import yaml\n", encoding="utf-8")
    # Which of its own modules a third-party package loads is its business; that it is seen is ours.
    assert {"costly", "yaml"} <= third_party("import costly", cwd=tmp_path)


@pytest.mark.parametrize("name", logitwatch.__all__)
def test_every_lazy_name_resolves(name: str) -> None:
    assert getattr(logitwatch, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known() -> None:
    with pytest.raises(AttributeError, match="LogitMonitor"):
        logitwatch.nonsense  # noqa: B018
