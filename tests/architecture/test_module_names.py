"""No module is named like one of the standard library: run from its folder, it would stand in that one's place."""

import sys
from pathlib import Path

import pytest
from architecture.source_tree import PACKAGE, assert_none, modules, write_package

TESTS = Path(__file__).parents[1]


def borrowed_names(root: Path) -> list[str]:
    """Modules and folders of a package that bear a name of the standard library."""
    return [name for name in modules(root) if name.rpartition(".")[2] in sys.stdlib_module_names]


def shadows(folder: Path) -> list[str]:
    """Files and folders that shadow the standard library where ``folder`` is on the import path."""
    return sorted(path.name for path in folder.iterdir() if path.stem in sys.stdlib_module_names)


def test_no_module_is_named_like_the_standard_library() -> None:
    assert_none(borrowed_names(PACKAGE))


def test_nothing_in_tests_shadows_the_standard_library() -> None:
    assert_none(shadows(TESTS))


@pytest.mark.parametrize("file", ["states/statistics.py", "collections/tensors.py", "states/types/tensors.py"])
def test_a_borrowed_name_is_found(tmp_path: Path, file: str) -> None:
    root = write_package(tmp_path, {file: ""})
    assert len(borrowed_names(root)) == 1


def test_a_shadow_is_found(tmp_path: Path) -> None:
    (tmp_path / "random.py").touch()
    (tmp_path / "json").mkdir()
    (tmp_path / "strategies.py").touch()
    assert shadows(tmp_path) == ["json", "random.py"]
