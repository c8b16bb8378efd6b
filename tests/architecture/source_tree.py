"""A package as its source says it is: modules, what each imports, and when. Nothing is executed."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "logitwatch"


@dataclass(frozen=True)
class Import:
    """One imported module. `typing_only` where it stands under ``if TYPE_CHECKING`` and so never runs."""

    target: str
    names: tuple[str, ...]
    line: int
    typing_only: bool

    @property
    def root(self) -> str:
        return self.target.partition(".")[0]


@dataclass(frozen=True)
class Module:
    """A source file. `name` is dotted and starts with the package; an ``__init__`` has the name of its folder."""

    name: str
    path: Path

    @property
    def is_facade(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def folder(self) -> str:
        """First part below the package: the folder, or the file at the top; empty for the package itself."""
        return ([*self.name.split("."), ""])[1]

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))

    @property
    def ancestors(self) -> list[str]:
        """The facades Python runs before it runs this module."""
        return ancestors(self.name)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"), str(self.path))

    @cached_property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree, self, typing_only=False))


def ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def modules(root: Path) -> dict[str, Module]:
    """Every module below a package folder, by dotted name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = (root.name, *path.relative_to(root).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path)
    return found


def resolved(imported: Import, tree: Mapping[str, Module]) -> list[str]:
    """Names of the modules an import means: ``from a import b`` is ``a.b`` where that is a module, else ``a``."""
    inner = [f"{imported.target}.{name}" for name in imported.names]
    targets = [name if name in tree else imported.target for name in inner] or [imported.target]
    return sorted(set(targets))


def is_type_checking(node: ast.AST) -> bool:
    """Whether a statement is ``if TYPE_CHECKING:``."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def assert_none(faults: list[str]) -> None:
    """Fail with every fault on its own line."""
    assert not faults, "\n" + "\n".join(faults)


def write_package(folder: Path, files: Mapping[str, str]) -> Path:
    """A package ``logitwatch`` with these files and an empty ``__init__`` where none is given."""
    root = folder / "logitwatch"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        for parent in path.relative_to(root).parents:
            (root / parent / "__init__.py").touch()
    return root


def _imports(node: ast.AST, module: Module, *, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, (), child.lineno, typing_only)
        elif isinstance(child, ast.ImportFrom):
            names = tuple(alias.name for alias in child.names)
            yield Import(_absolute(child, module), names, child.lineno, typing_only)
        elif (dynamic := _dynamic_target(child)) is not None:
            yield Import(dynamic, (), child.lineno, typing_only)  # type: ignore[attr-defined]
        if is_type_checking(child):
            assert isinstance(child, ast.If)
            for statement in child.body:
                yield from _imports(ast.Module([statement], []), module, typing_only=True)
            for statement in child.orelse:
                yield from _imports(ast.Module([statement], []), module, typing_only=typing_only)
        else:
            yield from _imports(child, module, typing_only=typing_only)


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    """The dotted target of a ``from`` import, relative ones included."""
    if node.level == 0:
        return node.module or ""
    package = module.name.split(".") if module.is_facade else module.name.split(".")[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _dynamic_target(node: ast.AST) -> str | None:
    """``importlib.import_module("x")`` and its kin are imports too, where the name is a literal."""
    if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
        return None
    if ast.unparse(node.func).rpartition(".")[2] not in ("import_module", "__import__"):
        return None
    return str(node.args[0].value)
