"""``__all__`` is sorted and equal to the public names of each public module."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from architecture.source_tree import PACKAGE, Module, assert_none, modules, write_package

# What these return is plumbing of the module, under whatever name.
PLUMBING = {"NewType", "ParamSpec", "TypeVar", "TypeVarTuple", "getLogger"}


def surface_faults(root: Path) -> list[str]:
    """What is wrong with ``__all__``, module by module.

    Public are classes, functions and lower-case or capitalised assignments without a leading underscore; in a facade
    also what it imports from its own package. A CONSTANT is public where ``__all__`` says so and may be left out.
    """
    return [
        f"{module.name}: {fault}" for module in modules(root).values() if module.is_public for fault in _faults(module)
    ]


def _faults(module: Module) -> Iterator[str]:
    assigned = {name for name in _assigned(module.tree.body) if not name.startswith("_")}
    public = {name for name in _defined(module.tree.body, module) if not name.startswith("_")} | assigned
    needed = public - {name for name in assigned if name.isupper()}
    listed = _listed(module.tree)
    if listed is None:
        if needed:
            yield f"has no __all__; its public names are {', '.join(sorted(needed))}"
        return
    if missing := needed - set(listed):
        yield f"__all__ lacks {', '.join(sorted(missing))}; list them or give them a leading underscore"
    if extra := set(listed) - public:
        yield f"__all__ has {', '.join(sorted(extra))}, not defined here"
    if len(set(listed)) < len(listed):
        yield "__all__ names something twice"
    if listed != sorted(listed, key=_sort_key):
        yield f"__all__ is not sorted; expected {sorted(listed, key=_sort_key)}"


def _sort_key(name: str) -> tuple[int, list[str | int]]:
    """The order ruff's RUF022 asks for: CONSTANTS, Classes, the rest; numbers as numbers."""
    kind = 0 if len(name) > 1 and name.isupper() else 1 if name[0].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _listed(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def _defined(body: list[ast.stmt], module: Module) -> Iterator[str]:
    """Names of classes and functions, and in a facade of what it imports from its own package."""
    for node in _flat(body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom) and module.is_facade and _is_own(node, module):
            yield from (alias.asname or alias.name for alias in node.names)


def _is_own(node: ast.ImportFrom, module: Module) -> bool:
    return node.level > 0 or (node.module or "").partition(".")[0] == module.name.partition(".")[0]


def _assigned(body: list[ast.stmt]) -> Iterator[str]:
    """Names that are assigned to, other than type parameters and loggers."""
    for node in _flat(body):
        if isinstance(node, ast.Assign | ast.AnnAssign) and not _is_plumbing(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            stored = (leaf for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name))
            yield from (leaf.id for leaf in stored if isinstance(leaf.ctx, ast.Store))


def _flat(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those under ``if`` and ``try`` included."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _flat([*node.body, *node.orelse])
            for handler in getattr(node, "handlers", []):
                yield from _flat(handler.body)


def _is_plumbing(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in PLUMBING


def test_all_equals_the_public_names() -> None:
    assert_none(surface_faults(PACKAGE))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def nll(): ...", "has no __all__"),
        ("__all__ = []\nclass Sink: ...", "lacks Sink"),
        ("__all__ = []\nclass ECE: ...", "lacks ECE"),
        ("__all__ = []\nif True:\n    alias = int", "lacks alias"),
        ("__all__ = ['gone']", "has gone"),
        ("import torch\n__all__ = ['torch']", "has torch"),
        ("__all__ = ['b', 'a']\ndef a(): ...\ndef b(): ...", "not sorted"),
        ("__all__ = ['a', 'a']\ndef a(): ...", "twice"),
        ("__all__ = ['_a']\ndef _a(): ...", "has _a"),
    ],
)
def test_a_wrong_all_is_found(tmp_path: Path, source: str, fault: str) -> None:
    (found,) = surface_faults(write_package(tmp_path, {"functional/scores.py": source}))
    assert fault in found


def test_a_name_a_facade_imports_and_does_not_list_is_found(tmp_path: Path) -> None:
    facade = "from logitwatch.states.a import A, B\n__all__ = ['A']"
    (found,) = surface_faults(write_package(tmp_path, {"states/__init__.py": facade}))
    assert "lacks B" in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("functional/scores.py", "LIMIT = 3\n__all__ = ['X', 'a2', 'a10']\nX: int = 1\ndef a2(): ...\ndef a10(): ..."),
        ("functional/scores.py", "from typing import TypeVar\nState = TypeVar('State')"),
        ("functional/scores.py", "import logging\nlogger = logging.getLogger(__name__)"),
        ("functional/_helpers.py", "def anything(): ..."),
        ("functional/__init__.py", ""),
        ("__init__.py", "if TYPE_CHECKING:\n    from logitwatch.states.a import A as A\n__all__ = ['A']"),
    ],
)
def test_a_right_or_private_module_passes(tmp_path: Path, file: str, source: str) -> None:
    assert surface_faults(write_package(tmp_path, {file: source})) == []
