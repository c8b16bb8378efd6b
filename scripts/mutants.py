"""The score of mutation testing, file by file, or of the files given; scripts/mutants runs mutmut first, then this.

mutmut writes all mutants of a function into one module and picks one when the function is called. So it cannot reach
what runs at import (constants, fields and the functions that declare them), nor what it does not wrap (properties,
cached functions). Those mutants are made here by mutmut's own operators; each is written into a copy of the tree and
imported by a fork of this process.
"""

import importlib
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import libcst as cst
import libcst.matchers as m
import pytest
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators
from mutmut.mutation.pragma_handling import get_ignored_lines
from mutmut.stats import status_by_exit_code

FOLDERS = ("logitwatch/functional", "logitwatch/states")
TESTS = ("functional", "states", "laws", "contracts/test_states.py", "oracles")
AT_IMPORT = ("summed", "maximised", "nested")  # declare fields: they have run before mutmut picks a mutant
SURVIVED = ("survived", "no tests", "not checked", "skipped", "suspicious")
OPTIONS = ("-p", "no:cacheprovider", "-p", "no:unraisableexception", "-W", "ignore::pytest.PytestAssertRewriteWarning")
LEAST = 0.9
LIMIT_S = 120
# Slow to import and not under test: imported once, before the forks.
WARM = ("torch", "scipy.stats", "mpmath", "sklearn.metrics", "torchmetrics", "hypothesis.extra.numpy", "relplot")


class Mutant(NamedTuple):
    line: int
    change: str
    source: str


class Unreached(MutationVisitor):
    """Visits decorated functions too; neither ``__all__``, a matter of tests/architecture, nor what only types read."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        listed, typing = m.AssignTarget(m.Name("__all__")), m.Call(m.Name("TypeVar"))
        if m.matches(node, m.Assign(targets=[listed]) | m.Assign(value=typing)):
            return True
        return not isinstance(node, cst.FunctionDef) and super()._skip_node_and_children(node)


def unreached(path: Path) -> Iterator[Mutant]:
    """The mutants of a file that mutmut does not make, or makes too late."""
    source = path.read_text(encoding="utf-8")
    wrapper = MetadataWrapper(cst.parse_module(source))
    visitor = Unreached(mutation_operators, get_ignored_lines(str(path), source, wrapper))
    module = wrapper.visit(visitor)
    positions = wrapper.resolve(PositionProvider)
    for mutation in visitor.mutations:
        if not _is_reached(mutation.contained_by_top_level_function):
            mutated = deep_replace(module, mutation.original_node, mutation.mutated_node)
            line = positions[mutation.original_node].start.line
            yield Mutant(line, _change(source, mutated.code), mutated.code)


def _is_reached(container: cst.CSTNode | None) -> bool:
    if not isinstance(container, cst.FunctionDef) or container.name.value in AT_IMPORT:
        return False
    plain = m.Decorator(m.Name("classmethod") | m.Name("staticmethod"))
    return len(container.decorators) <= 1 and all(m.matches(d, plain) for d in container.decorators)


def _change(before: str, after: str) -> str:
    old, new = before.splitlines(), after.splitlines()
    changed = [i for i in range(min(len(old), len(new))) if old[i] != new[i]] or [len(new) - 1]
    return f"{old[changed[0]].strip()}  ->  {new[changed[0]].strip()}"


def dies(root: Path, arguments: list[str]) -> bool:
    """Whether pytest fails in a fork that imports the package from ``root``; running out of time is failing."""
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        os.chdir(root)
        sys.path.insert(0, str(root))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        status = 1
        try:
            status = int(pytest.main(["-x", "-q", *OPTIONS, *arguments]))
        finally:
            os._exit(status)  # the fork must not return into what its parent does next
    return os.waitpid(child, 0)[1] != 0


def survivors_of(path: Path, root: Path) -> tuple[int, list[str]]:
    """How many mutants mutmut did not reach, and the changes that no test noticed. The nearest tests come first."""
    near = ["--doctest-modules", str(path), f"tests/{path.parent.name}/test_{path.stem}.py"]
    far = [f"tests/{name}" for name in TESTS]
    mutants, target, survived = list(unreached(path)), root / path, []
    for mutant in mutants:
        target.write_text(mutant.source, encoding="utf-8")
        if not dies(root, near) and not dies(root, far):
            survived.append(f"{path}:{mutant.line}: {mutant.change}")
    shutil.copy(path, target)
    return len(mutants), survived


def survivors_of_mutmut(path: Path) -> tuple[int, list[str]]:
    """How many mutants mutmut tried, and the changes that no test noticed."""
    data = SourceFileMutationData(path=path)
    data.load()
    tried = {k: v for k, v in data.exit_code_by_key.items() if not any(f".x_{name}__" in k for name in AT_IMPORT)}
    survived = []
    for key in (k for k, v in tried.items() if status_by_exit_code[v] in SURVIVED):
        lines = get_diff_for_mutant(key, path=path).splitlines()
        old, new = (" ".join(x[1:].strip() for x in lines if x[0] == sign and x[:3] != sign * 3) for sign in "-+")
        survived.append(f"{path}: {old}  ->  {new}")
    return len(tried), survived


def main() -> None:
    sys.dont_write_bytecode = True  # two mutants written within a second would share their bytecode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in WARM:
            importlib.import_module(name)
    rows, listed = [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("logitwatch", "tests"):
            shutil.copytree(name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy("pyproject.toml", root)
        if dies(root, ["--doctest-modules", *FOLDERS, *(f"tests/{name}" for name in TESTS)]):
            raise SystemExit("the tests fail without a mutant")
        for path in [Path(name) for name in sys.argv[1:]] or sorted(f for n in FOLDERS for f in Path(n).glob("*.py")):
            (many, first), (few, second) = survivors_of_mutmut(path), survivors_of(path, root)
            rows.append((str(path), many + few, many + few - len(first) - len(second)))
            listed += first + second
    print("\n".join(listed))
    rows = [row for row in rows if row[1]]
    total, killed = (sum(row[i] for row in rows) for i in (1, 2))
    print("\n| file | mutants | killed | score |\n|---|---|---|---|")
    for path, count, dead in [*rows, ("total", total, killed)]:
        print(f"| {path} | {count} | {dead} | {dead / count:.1%} |")
    raise SystemExit(0 if killed >= LEAST * total else f"fewer than {LEAST:.0%} are killed")


if __name__ == "__main__":
    main()
