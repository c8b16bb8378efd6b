import subprocess
import sys

import pytest
from helpers.drawn import nothing_global_changes, pixels
from matplotlib import pyplot

from logitwatch.figures.canvas import _short, ink, new_figure, rows_axis, title


def test_without_matplotlib_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'logitwatch\[figures\]'"):
        new_figure(3)


def test_neither_the_package_nor_its_figures_load_matplotlib(tmp_path):
    probe = "import sys, logitwatch, logitwatch.figures; print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_figure_is_unknown_to_pyplot():
    with nothing_global_changes():
        assert pixels(new_figure(3)).shape == (450, 720, 3)


def test_the_style_of_the_user_decides_what_is_written_in():
    assert ink(new_figure(3).subplots()) == "black"
    with pyplot.style.context("dark_background"):
        assert ink(new_figure(3).subplots()) == "white"


def test_a_title_is_a_verdict_over_a_lighter_line():
    axes = new_figure(3).subplots()
    title(axes, "ECE 0.043", "over-confident")
    assert axes.get_title(loc="left") == "ECE 0.043"
    assert [text.get_text() for text in axes.texts] == ["over-confident"]


@pytest.mark.parametrize(
    ("count", "word"), [(0, "0"), (1, "1"), (999, "999"), (1000, "1k"), (1500, "1.5k"), (10**6, "1M"), (4e10, "40G")]
)
def test_counts_are_short(count, word):
    assert _short(count) == word


def test_the_axis_of_counts_holds_a_single_row_and_all_of_them():
    axes = new_figure(3).subplots()
    rows_axis(axes, 10**6)
    low, high = axes.get_ylim()
    assert low < 1 < 10**6 < high
