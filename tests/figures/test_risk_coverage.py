import json

import pytest
import torch
from helpers.drawn import nothing_global_changes, one_bin, pixels, trained

from logitwatch.figures.risk_coverage import prepare_risk_coverage, risk_coverage_figure
from logitwatch.states.calibration_sketch import CalibrationSketch


def test_the_curve_is_that_of_the_sketch_without_repetition():
    sketch = trained()
    (curve,) = prepare_risk_coverage({"net": sketch})
    whole = sketch.risk_coverage_curve()
    assert len(curve.coverage) == len(set(curve.coverage)) == len(curve.risk) == len(curve.threshold)
    assert set(curve.coverage[1:]) == set(whole.coverage[whole.coverage > 0].tolist())
    assert (curve.coverage[-1], curve.risk[-1]) == (1, pytest.approx(1 - sketch.accuracy().item(), abs=1e-15))
    assert curve.aurc == sketch.aurc().item()
    # The area under the points as drawn, up to what a row more or less is worth.
    area = torch.trapezoid(torch.tensor(curve.risk), torch.tensor(curve.coverage)).item()
    assert area == pytest.approx(curve.aurc, abs=2e-3)


def test_rows_of_one_confidence_have_one_risk_at_any_coverage():
    (curve,) = prepare_risk_coverage({"net": one_bin()})
    assert (curve.coverage, curve.risk) == ([0, 1], [0.2, 0.2])


def test_the_numbers_are_json():
    curves = prepare_risk_coverage({"net": trained(), "none": CalibrationSketch.empty()})
    restored = json.loads(json.dumps([curve._asdict() for curve in curves], allow_nan=False))
    assert [type(curve)(**fields) for curve, fields in zip(curves, restored, strict=True)] == curves


def test_the_title_names_the_model_that_sorts_best():
    other, best = trained(), one_bin()
    axes = risk_coverage_figure({"other": other, "best": best}).axes[0]
    assert axes.get_title(loc="left") == "best: lowest AURC 0.200"
    assert axes.texts[0].get_text() == "wrong in 20.0% of all, in 20.0% of the surest 80%"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        f"other: AURC {other.aurc().item():.3f}",
        "best: AURC 0.200",
    ]


def test_a_first_row_that_is_wrong_does_not_set_the_scale():
    logits = torch.cat((torch.tensor([[20.0, 0.0]]), torch.tensor([[2.0, 0.0]]).repeat(99, 1)))
    sketch = CalibrationSketch.of(logits, torch.tensor([1] + [0] * 99))
    (curve,) = prepare_risk_coverage({"net": sketch})
    assert curve.risk[0] == 1
    assert risk_coverage_figure({"net": sketch}).axes[0].get_ylim()[1] < 0.05


@pytest.mark.parametrize(
    "sketches",
    [
        {},
        {"none": CalibrationSketch.empty()},
        {"one": one_bin(), "none": CalibrationSketch.empty()},
        {str(i): trained(seed=i) for i in range(9)},
        {"row": trained(rows=1)},
    ],
)
def test_anything_is_drawn_and_nothing_global_changes(sketches):
    with nothing_global_changes():
        assert pixels(risk_coverage_figure(sketches)).shape == (630, 720, 3)
