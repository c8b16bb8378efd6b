"""A file is read in one sitting."""

from pathlib import Path

from architecture.source_tree import PACKAGE, assert_none, modules, write_package

LINES = 350


def long_files(root: Path) -> list[str]:
    """Each file over the limit, with its length."""
    lengths = {
        module.name: len(module.path.read_text(encoding="utf-8").splitlines()) for module in modules(root).values()
    }
    return [f"{name} has {n} lines, over {LINES}: split it by idea" for name, n in lengths.items() if n > LINES]


def test_no_file_is_too_long() -> None:
    assert_none(long_files(PACKAGE))


def test_a_long_file_is_found(tmp_path: Path) -> None:
    root = write_package(tmp_path, {"states/long.py": "x = 1\n" * 351, "states/short.py": "x = 1\n" * 350})
    assert long_files(root) == ["logitwatch.states.long has 351 lines, over 350: split it by idea"]
