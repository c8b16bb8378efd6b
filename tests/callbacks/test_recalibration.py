import warnings

import pytest
import torch

from logitwatch.calibrators.temperature import TemperatureScaling
from logitwatch.callbacks.recalibration import KINDS, carried, recalibrated, restored
from logitwatch.states.calibration_sketch import CalibrationSketch


def batch(rows=900, scale=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(rows, 3, generator=generator)
    return scale * z, z.softmax(-1).multinomial(1, generator=generator).squeeze(1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bias"])  # which changes not how sure a net is
def test_every_kind_mends_an_over_confident_net_on_rows_it_has_not_seen(kind):
    z, y = batch()
    done = recalibrated(kind, z, y)
    assert done.before.nll() == CalibrationSketch.of(z, y).nll()
    assert done.after.count == 900
    assert done.after.nll() < done.before.nll()
    assert done.after.ece() < done.before.ece()


def test_what_is_kept_is_fitted_to_every_row():
    z, y = batch()
    assert recalibrated("temperature", z, y).calibrator.temperature == TemperatureScaling().fit(z, y).temperature


def test_the_numbers_are_of_rows_the_map_was_not_fitted_to():
    generator = torch.Generator().manual_seed(0)
    z, y = torch.randn(60, 20, generator=generator), torch.randint(20, (60,), generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = recalibrated("matrix", z, y)
    with torch.no_grad():
        fitted = CalibrationSketch.of(done.calibrator(z), y).nll()
    assert done.after.nll() > fitted  # random labels can be learned by heart, and not be foretold


def test_the_best_of_calibrated_logits_is_none():
    done = recalibrated("best", *batch(scale=1.0))
    assert carried(done.calibrator)["kind"] in ("identity", "temperature")
    assert abs(done.after.nll() - done.before.nll()) < 0.01


def test_what_the_fit_warns_of_is_a_note_and_no_warning():
    z, _ = batch()
    done = recalibrated("temperature", z, z.argmax(-1))  # separable: any lower temperature is better
    assert len(done.notes) == 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "best"])
def test_a_calibrator_comes_back_through_a_safe_load(kind, tmp_path):
    z, y = batch()
    calibrator = recalibrated(kind, z, y).calibrator
    torch.save(carried(calibrator), tmp_path / "saved.pt")
    again = restored(torch.load(tmp_path / "saved.pt", weights_only=True))
    assert type(again) is type(calibrator)
    with torch.no_grad():
        assert torch.equal(again(z), calibrator(z))


def test_rows_of_one_class_are_refused():
    with pytest.raises(ValueError, match="two classes or more"):
        recalibrated("temperature", torch.randn(40, 3), torch.zeros(40, dtype=torch.long))
