import json

import pytest
from helpers.drawn import nothing_global_changes, one_bin, pixels, trained

from logitwatch.figures.gap_heatmap import gap_heatmap_figure, prepare_gap_heatmap
from logitwatch.states.calibration_sketch import CalibrationSketch

EPOCHS = {epoch: trained(scale=1 + epoch, seed=epoch) for epoch in range(4)}


def test_the_gaps_are_those_of_the_sketches_in_order_of_epochs():
    heatmap = prepare_gap_heatmap({3: trained(scale=4), 1: trained(scale=1)}, min_rows=20)
    assert heatmap.epochs == [1, 3]
    for scale, gaps, counts in zip((1, 4), heatmap.gaps, heatmap.counts, strict=True):
        curve = trained(scale=scale).reliability_curve()
        assert counts == curve.counts.tolist()
        wanted = (curve.confidence - curve.accuracy).tolist()
        assert gaps == [gap if n >= 20 else None for gap, n in zip(wanted, counts, strict=True)]
    assert None in heatmap.gaps[1]
    assert heatmap.ece == [trained(scale=scale).ece().item() for scale in (1, 4)]


def test_the_numbers_are_json():
    heatmap = prepare_gap_heatmap({**EPOCHS, 9: CalibrationSketch.empty()})
    assert type(heatmap)(**json.loads(json.dumps(heatmap._asdict(), allow_nan=False))) == heatmap


def test_colours_are_even_on_both_sides_of_no_gap():
    axes = gap_heatmap_figure(EPOCHS).axes[0]
    (cells,) = axes.collections
    low, high = cells.get_clim()
    assert low == -high < 0
    assert cells.get_array().shape == (15, 4)
    # The first row of cells is the least confident bin, which nothing falls into.
    assert cells.get_array().mask[0].all()
    assert not cells.get_array().mask[-1].all()


def test_the_title_tells_of_the_way_from_first_to_last_and_of_the_least():
    ece = [EPOCHS[epoch].ece().item() for epoch in range(4)]
    axes = gap_heatmap_figure({**EPOCHS, 4: CalibrationSketch.empty()}).axes[0]
    assert axes.get_title(loc="left").startswith(f"ECE {ece[0]:.3f} → {ece[3]:.3f} (calibrated: ")
    assert axes.texts[0].get_text() == f"epoch 0 to 3, lowest {min(ece):.3f} at epoch {ece.index(min(ece))}"


def test_epochs_stand_where_they_are():
    axes = gap_heatmap_figure({0: one_bin(), 10: one_bin(), 12: one_bin()}).axes[0]
    assert axes.get_xlim() == (-1, 13)


@pytest.mark.parametrize(
    "sketches",
    [{}, {4: CalibrationSketch.empty()}, {0: one_bin()}, EPOCHS, {0: one_bin(), 7: CalibrationSketch.empty()}],
)
def test_anything_is_drawn_and_nothing_global_changes(sketches):
    with nothing_global_changes():
        assert pixels(gap_heatmap_figure(sketches)).shape == (630, 720, 3)
