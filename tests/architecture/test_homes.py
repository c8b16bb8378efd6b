"""One third-party package, one home."""

import sys
from pathlib import Path

import pytest
from architecture.source_tree import PACKAGE, assert_none, modules, write_package

# Where each may be imported: a prefix of the module's name. The longest matching key decides.
HOMES = {
    "torch": "logitwatch",
    "torch.utils.tensorboard": "logitwatch.sinks.tensorboard",
    "tensorboard": "logitwatch.sinks.tensorboard",
    "google_crc32c": "logitwatch.sinks.checksum",
    "wandb": "logitwatch.sinks.wandb",
    "torchmetrics": "logitwatch.metrics",
    "matplotlib": "logitwatch.figures",
    "numpy": "logitwatch.sinks.raster",  # pixels; TensorBoard brings it
    "ray": "logitwatch.drift",
    "lightning": "logitwatch.callbacks",  # private attributes of Lightning only in callbacks/_compat.py
    "pytorch_lightning": "logitwatch.callbacks",
    "lightning_utilities": "logitwatch.callbacks",
    "jsonargparse": "logitwatch.cli",
    "rich": "logitwatch.cli",
}


def strays(root: Path) -> list[str]:
    """Each import of a third-party package away from its home, or of one that has none."""
    tree = modules(root)
    return [
        f"{module.name}:{imported.line} imports {target}; its home is {home or 'not listed in ' + Path(__file__).name}"
        for module in tree.values()
        if module.folder != "testing"
        for imported in module.imports
        if imported.root not in sys.stdlib_module_names and imported.root != root.name
        for target in _spellings(imported.target, imported.names)
        if not _within(module.name, home := _home(target))
    ]


def _spellings(target: str, names: tuple[str, ...]) -> list[str]:
    """``from torch.utils import tensorboard`` reads as ``torch.utils.tensorboard``, any other name as its module."""
    return sorted({inner if (inner := f"{target}.{name}") in HOMES else target for name in names or ("",)})


def _home(target: str) -> str:
    fitting = [key for key in HOMES if _within(target, key)]
    return HOMES[max(fitting, key=len)] if fitting else ""


def _within(name: str, prefix: str) -> bool:
    return bool(prefix) and (name == prefix or name.startswith(prefix + "."))


def test_every_third_party_package_is_imported_at_home() -> None:
    assert_none(strays(PACKAGE))


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("states/moments.py", "import torchmetrics"),
        ("sinks/jsonl.py", "def f():\n    import wandb"),
        ("sinks/jsonl.py", "from torch.utils.tensorboard.writer import SummaryWriter"),
        ("sinks/jsonl.py", "from torch.utils import tensorboard"),
        ("sinks/wandb_tools.py", "import wandb"),
        ("capture/tap.py", "import importlib\npl = importlib.import_module('pytorch_lightning')"),
        (
            "capture/tap.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lightning.pytorch import Trainer",
        ),
        ("callbacks/watch.py", "from matplotlib.figure import Figure"),
        ("report/page.py", "import jinja2"),
        ("functional/scores.py", "import numpy as np"),
    ],
)
def test_a_stray_import_is_found(tmp_path: Path, file: str, source: str) -> None:
    assert len(strays(write_package(tmp_path, {file: source}))) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("sinks/checksum.py", "import google_crc32c"),
        ("sinks/tensorboard.py", "from torch.utils.tensorboard import SummaryWriter"),
        ("sinks/wandb.py", "import wandb"),
        ("callbacks/_compat.py", "import lightning.pytorch, pytorch_lightning"),
        ("states/moments.py", "import math, torch\nfrom torch.nn import functional as F"),
        ("testing/chaos.py", "import pytorch_lightning, numpy"),
    ],
)
def test_an_import_at_home_passes(tmp_path: Path, file: str, source: str) -> None:
    assert strays(write_package(tmp_path, {file: source})) == []
