import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitwatch.calibrators.inputs import CalibrationWarning
from logitwatch.calibrators.temperature import TemperatureScaling
from logitwatch.functional.scores import nll


def batch(rows: int = 1000, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = 1.5 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return 3 * z, z.softmax(-1).multinomial(1, generator=generator).squeeze(1)


def fitted(z: Tensor, y: Tensor, **options: Tensor) -> TemperatureScaling:
    return TemperatureScaling().double().fit(z, y, **options)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 50.0, 1e4])
def test_the_temperature_follows_the_scale_of_the_logits(scale: float) -> None:
    z, y = batch()
    wanted = scale * fitted(z, y).temperature.item()
    assert fitted(scale * z, y).temperature.item() == pytest.approx(wanted, rel=1e-12)  # rounding


def test_a_constant_added_to_a_row_changes_nothing() -> None:
    z, y = batch()
    offsets = torch.linspace(-100, 100, len(y), dtype=torch.float64).unsqueeze(1)
    assert fitted(z + offsets, y).temperature.item() == pytest.approx(fitted(z, y).temperature.item(), rel=1e-12)


@pytest.mark.parametrize("factor", [1 - 1e-4, 1 + 1e-4])
def test_no_temperature_nearby_is_better(factor: float) -> None:
    z, y = batch()
    t = fitted(z, y).temperature
    assert nll(z / t, y).mean() < nll(z / (factor * t), y).mean()


@given(st.integers(0, 10_000), st.floats(-6, 6))
def test_accuracy_never_changes(seed: int, log_scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = 10**log_scale * torch.randn(30, 3, generator=generator)
    y = torch.randint(3, (30,), generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        calibrated = TemperatureScaling().fit(z, y)(z)
    assert calibrated.isfinite().all()
    assert torch.equal(calibrated.argmax(-1), z.argmax(-1))


def test_rows_that_determine_it_say_so() -> None:
    scaling = fitted(*batch())
    assert scaling.determined
    assert 2.8 < scaling.temperature < 3.2  # made three times too confident


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_separable_rows_are_flagged_and_kept_bounded(scale: float) -> None:
    z, _ = batch()
    with pytest.warns(CalibrationWarning, match="determined by 1000 rows: every target is a largest logit"):
        scaling = fitted(scale * z, z.argmax(-1))
    assert not scaling.determined
    # Half a row in a thousand costs at least its share of the NLL, and certainty is not claimed.
    calibrated = scaling(scale * z)
    assert 1 < scale / scaling.temperature < 100
    assert 5e-4 < nll(calibrated, z.argmax(-1)).mean() < 0.05


def test_a_class_that_is_always_absent_changes_nothing() -> None:
    z, y = batch()
    padded = torch.nn.functional.pad(z, (0, 3), value=-torch.inf)
    assert fitted(padded, y).temperature.item() == pytest.approx(fitted(z, y).temperature.item(), rel=1e-12)
    with pytest.warns(CalibrationWarning):
        separable = fitted(z, z.argmax(-1)).temperature.item()
    with pytest.warns(CalibrationWarning):
        assert fitted(padded, z.argmax(-1)).temperature.item() == pytest.approx(separable, rel=1e-9)  # rounding


def test_a_single_mistake_is_enough() -> None:
    z, _ = batch()
    y = z.argmax(-1)
    y[0] = z[0].argmin(-1)
    scaling = fitted(z, y)
    assert scaling.determined


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_targets_against_the_logits_make_predictions_uniform(scale: float) -> None:
    z, _ = batch()
    with pytest.warns(CalibrationWarning, match="targets are no likelier where their logits are larger"):
        scaling = fitted(scale * z, z.argmin(-1))
    assert not scaling.determined
    p = scaling(scale * z).softmax(-1)
    torch.testing.assert_close(p, torch.full_like(p, 0.2), rtol=0, atol=1e-3)  # the bound


def test_random_targets_are_flagged() -> None:
    z, _ = batch()
    flagged = 0
    for seed in range(40):
        y = torch.randint(5, (1000,), generator=torch.Generator().manual_seed(seed))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            scaling = fitted(z, y)
        flagged += len(seen)
        assert len(seen) == (not scaling.determined)
        no_minimum = [warning for warning in seen if "no likelier" in str(warning.message)]
        # The bound is 1e-3 about the mean of each row, and a little more about the mean of all.
        assert bool(no_minimum) == (scaling(z).std() < 1.2e-3)
        assert scaling.temperature > 10
    assert flagged >= 39  # each is missed with a probability of 0.13 %


def test_the_doubt_is_told_in_standard_errors() -> None:
    # Two of three targets are the larger of two equal margins: (2 - 1) / sqrt(3) standard errors.
    z, y = torch.tensor([[1.0, 0.0]]).expand(3, 2), torch.tensor([0, 0, 1])
    with pytest.warns(CalibrationWarning, match=r"likelier where their logits are larger by 0\.6 standard errors"):
        scaling = fitted(z.double(), y)
    assert scaling.temperature.item() == pytest.approx(1 / torch.tensor(2.0).log().item(), rel=1e-6)


def test_equal_logits_leave_it_at_one() -> None:
    with pytest.warns(CalibrationWarning, match="equal; the temperature is 1"):
        scaling = fitted(torch.tensor([[2.0, 2.0], [5.0, 5.0]]), torch.tensor([0, 1]))
    assert scaling.temperature == 1
    assert not scaling.determined


def test_the_warning_points_at_the_fit() -> None:
    with pytest.warns(CalibrationWarning) as seen:
        TemperatureScaling().fit(torch.eye(2), torch.tensor([0, 1]))
    assert seen[0].filename == __file__
