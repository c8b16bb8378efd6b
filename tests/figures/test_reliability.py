import json

import pytest
from helpers.drawn import nothing_global_changes, one_bin, pixels, trained
from matplotlib.colors import to_hex

from logitwatch.figures.canvas import COLD, WARM, new_figure
from logitwatch.figures.reliability import (
    draw_reliability_diagram,
    prepare_reliability_diagram,
    reliability_figure,
)
from logitwatch.states.calibration_sketch import CalibrationSketch


def drawn_on_axes(sketch, **options):
    axes = new_figure(4).subplots()
    draw_reliability_diagram(axes, prepare_reliability_diagram(sketch, **options))
    return axes


@pytest.mark.parametrize("num_bins", [1, 7, 15])
def test_the_numbers_are_those_of_the_sketch(num_bins):
    sketch = trained()
    diagram = prepare_reliability_diagram(sketch, num_bins=num_bins)
    curve = sketch.reliability_curve(num_bins)
    assert diagram.counts == curve.counts.tolist()
    assert (diagram.edges[0], diagram.edges[-1], len(diagram.edges)) == (0, 1, num_bins + 1)
    for mine, theirs in zip(diagram[2:6], curve[1:], strict=True):
        known = [value for value in theirs.tolist() if value == value]
        assert [value for value in mine if value is not None] == known
    assert diagram.ece == sketch.ece(num_bins).item()
    assert diagram.null_ece == sketch.null_ece(num_bins).item()
    assert (diagram.ece_lower, diagram.ece_upper) == tuple(x.item() for x in sketch.ece_interval(num_bins))
    assert diagram.smooth_accuracy[150] == sketch.smooth_reliability_curve().accuracy[150].item()


@pytest.mark.parametrize("sketch", [trained(), one_bin(), CalibrationSketch.empty()])
def test_the_numbers_are_json(sketch):
    diagram = prepare_reliability_diagram(sketch)
    restored = json.loads(json.dumps(diagram._asdict(), allow_nan=False))
    assert type(diagram)(**restored) == diagram


@pytest.mark.parametrize(
    ("sketch", "verdict"),
    [
        (trained(scale=4), "over-confident"),
        (trained(scale=1), "under-confident"),
        (trained(scale=2), "calibration not ruled out"),
        (CalibrationSketch.empty(), "no rows"),
    ],
)
def test_the_verdict_is_the_way_confidence_errs_where_the_rows_say_so(sketch, verdict):
    assert prepare_reliability_diagram(sketch).verdict == verdict


def test_the_title_has_the_error_beside_what_a_calibrated_model_would_show():
    sketch = trained()
    title = drawn_on_axes(sketch).get_title(loc="left")
    assert title == f"ECE {sketch.ece().item():.3f} (calibrated model would show {sketch.null_ece().item():.3f})"


@pytest.mark.parametrize(("scale", "colour"), [(4, WARM), (1, COLD)])
def test_gaps_lie_between_accuracy_and_confidence_in_the_colour_of_their_sign(scale, colour):
    sketch = trained(scale=scale)
    diagram, bars = prepare_reliability_diagram(sketch), drawn_on_axes(sketch).patches
    assert len(bars) == sum(count > 0 for count in diagram.counts)
    fullest = max(range(15), key=diagram.counts.__getitem__)
    (bar,) = (bar for bar in bars if bar.get_x() == diagram.edges[fullest])
    assert bar.get_y() == diagram.accuracy[fullest]
    assert bar.get_y() + bar.get_height() == pytest.approx(diagram.confidence[fullest], abs=1e-12)
    assert to_hex(bar.get_facecolor()).upper() == colour


def test_each_bin_with_rows_has_its_interval():
    axes = drawn_on_axes(trained())
    diagram = prepare_reliability_diagram(trained())
    (lines,) = axes.collections
    drawn = [tuple(segment[:, 1]) for segment in lines.get_segments() if len(segment)]
    wanted = [limits for limits in zip(diagram.lower, diagram.upper, strict=True) if None not in limits]
    assert drawn == wanted


def test_axes_are_labelled_with_their_unit():
    top, bottom = reliability_figure(trained()).axes
    assert (top.get_xlabel(), top.get_ylabel()) == ("confidence (fraction)", "accuracy (fraction)")
    assert (bottom.get_xlabel(), bottom.get_ylabel()) == ("confidence (fraction)", "rows (of 900)")


@pytest.mark.parametrize("sketch", [trained(), one_bin(), CalibrationSketch.empty(), trained(rows=1)])
@pytest.mark.parametrize("num_bins", [1, 15])
def test_anything_is_drawn_and_nothing_global_changes(sketch, num_bins):
    with nothing_global_changes():
        assert pixels(reliability_figure(sketch, num_bins=num_bins)).shape == (870, 720, 3)


def test_a_million_rows_are_as_soon_drawn_as_a_hundred():
    sketch = trained(rows=100)
    for _ in range(14):
        sketch = sketch.merge(sketch)
    figure = reliability_figure(sketch)
    assert figure.axes[1].get_ylabel() == "rows (of 1.64M)"
    assert pixels(figure).min() < 50
