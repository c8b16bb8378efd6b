import json

import pytest
from helpers.drawn import nothing_global_changes, one_bin, pixels, trained
from matplotlib.patches import StepPatch

from logitwatch.figures.recalibration import prepare_recalibration, recalibration_figure
from logitwatch.figures.reliability import prepare_reliability_diagram
from logitwatch.states.calibration_sketch import CalibrationSketch


def test_the_numbers_are_those_of_both_diagrams():
    data = prepare_recalibration(trained(scale=4), trained(scale=2), num_bins=10)
    assert data.before == prepare_reliability_diagram(trained(scale=4), num_bins=10)
    assert data.after == prepare_reliability_diagram(trained(scale=2), num_bins=10)
    json.dumps([diagram._asdict() for diagram in data], allow_nan=False)


def test_the_title_tells_what_changed():
    before, after = trained(scale=4), trained(scale=2)
    axes = recalibration_figure(before, after).axes[0]
    assert axes.get_title(loc="left").startswith(f"ECE {before.ece().item():.3f} → {after.ece().item():.3f} (calib")
    assert axes.texts[0].get_text() == (
        f"NLL {before.nll().item():.3f} → {after.nll().item():.3f} nats, "
        f"accuracy {before.accuracy().item():.3f} → {after.accuracy().item():.3f}"
    )


def test_both_histograms_are_drawn():
    before, after = trained(scale=4), trained(scale=2)
    data = prepare_recalibration(before, after)
    steps = [patch for patch in recalibration_figure(before, after).axes[1].patches if isinstance(patch, StepPatch)]
    assert [step.get_data().values.tolist() for step in steps] == [data.before.counts, data.after.counts]


@pytest.mark.parametrize("sketch", [trained(), one_bin(), CalibrationSketch.empty()])
def test_anything_is_drawn_and_nothing_global_changes(sketch):
    with nothing_global_changes():
        assert pixels(recalibration_figure(sketch, trained(scale=2))).shape == (870, 720, 3)
        assert pixels(recalibration_figure(sketch, sketch)).shape == (870, 720, 3)
