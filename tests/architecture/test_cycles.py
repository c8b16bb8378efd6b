"""No import cycle, facades included: any module can be imported first."""

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from architecture.source_tree import PACKAGE, Module, ancestors, assert_none, modules, resolved, write_package


def import_cycle(root: Path) -> list[str]:
    """The modules of one cycle in the order Python would meet them, or nothing.

    Importing ``a.b.c`` runs ``a`` and ``a.b`` too, unless the importer lives under them, where they have begun already.
    An import inside a function counts: it hides a cycle, it does not remove it.
    """
    tree = modules(root)
    graph = {module.name: _needs(module, tree) for module in tree.values()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # graphlib lists each module before the one that imports it
        return list(reversed(error.args[1]))
    return []


def _needs(module: Module, tree: dict[str, Module]) -> set[str]:
    needed: set[str] = set()
    for imported in module.imports:
        if not imported.typing_only:
            for target in resolved(imported, tree):
                needed |= {target, *ancestors(target)} & tree.keys()
    begun = {module.name, *module.ancestors}
    # A module that imports its own facade by name needs it whole, not only begun.
    explicit = {t for i in module.imports if not i.typing_only for t in resolved(i, tree)} & set(module.ancestors)
    return (needed - begun) | explicit


def test_there_is_no_import_cycle() -> None:
    assert_none(import_cycle(PACKAGE))


def test_a_cycle_of_two_modules_is_found(tmp_path: Path) -> None:
    root = write_package(
        tmp_path,
        {
            "states/a.py": "from logitwatch.states.b import B",
            "states/b.py": "def f():\n    from logitwatch.states.a import A",
        },
    )
    assert set(import_cycle(root)) == {"logitwatch.states.a", "logitwatch.states.b"}


def test_a_cycle_through_a_facade_is_found(tmp_path: Path) -> None:
    root = write_package(
        tmp_path,
        {
            "losses/__init__.py": "from logitwatch.losses.z import Z",
            "losses/z.py": "from logitwatch.capture.tap import Tap",
            "losses/terms.py": "",
            "capture/tap.py": "from logitwatch.losses.terms import Term",
        },
    )
    assert set(import_cycle(root)) == {"logitwatch.losses", "logitwatch.losses.z", "logitwatch.capture.tap"}


def test_a_module_that_imports_its_own_facade_is_found(tmp_path: Path) -> None:
    root = write_package(
        tmp_path,
        {"states/__init__.py": "from logitwatch.states.a import A", "states/a.py": "from logitwatch.states import B"},
    )
    assert set(import_cycle(root)) == {"logitwatch.states", "logitwatch.states.a"}


def test_a_facade_over_its_own_modules_and_an_import_for_typing_are_no_cycle(tmp_path: Path) -> None:
    root = write_package(
        tmp_path,
        {
            "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from logitwatch.states.a import A",
            "states/__init__.py": "from logitwatch.states.a import A\nfrom logitwatch.states.b import B",
            "states/a.py": "from logitwatch.states.b import B",
            "states/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from logitwatch.states.a import A",
        },
    )
    assert import_cycle(root) == []
