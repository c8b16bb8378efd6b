import mpmath
import pytest
import torch
from torch import Tensor

from logitwatch.calibrators import BetaCalibration, Calibrator, IsotonicCalibration, PlattScaling
from logitwatch.calibrators.inputs import calibration_rows
from logitwatch.calibrators.one_vs_rest import calibrated_logits, class_log_odds, class_rows, log_or_unchanged

ABSENT = -torch.inf


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-14)])
def test_log_odds_are_those_of_fifty_digits(scale: float, dtype: torch.dtype, tolerance: float) -> None:
    z = (scale * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))).to(dtype)
    z[0] = 1.0
    ours = class_log_odds(z)
    with mpmath.workdps(50):
        for row, odds in zip(z.tolist(), ours.tolist(), strict=True):
            for k, value in enumerate(odds):
                others = [mpmath.exp(mpmath.mpf(x)) for j, x in enumerate(row) if j != k]
                wanted = mpmath.mpf(row[k]) - mpmath.log(mpmath.fsum(others))
                # Rounding, relative to the logits or to the logarithm of how many there are.
                assert abs(value - wanted) <= tolerance * max(1, abs(max(row, key=abs)))


def test_two_classes_are_exact_mirror_images() -> None:
    z = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * 20
    odds = class_log_odds(z)
    assert torch.equal(odds[:, 0], -odds[:, 1])
    assert torch.equal(odds[:, 1], z[:, 1] - z[:, 0])


def test_absent_only_and_bad_rows() -> None:
    z = torch.tensor([[1.0, ABSENT], [1.0, torch.nan], [torch.inf, 1.0], [ABSENT, ABSENT]])
    odds = class_log_odds(z)
    assert odds[0].tolist() == [pytest.approx(1e30), pytest.approx(-1e30)]
    assert odds[1:].isnan().all()


def test_calibrated_logits_are_normalised_over_the_present() -> None:
    z = torch.tensor([[1.0, 0.0, ABSENT], [1.0, 0.0, 0.0], [ABSENT, ABSENT, ABSENT]])
    scores = class_log_odds(z)
    log_q = torch.tensor([[0.3, 0.1, 0.9], [0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]).log()
    p = calibrated_logits(log_q, scores, z).exp()
    torch.testing.assert_close(p[0], torch.tensor([0.75, 0.25, 0.0]))
    torch.testing.assert_close(p[1], torch.full((3,), 1 / 3))  # nothing is left, and nothing is preferred
    assert p[2].tolist() == [0.0, 0.0, 0.0]


def test_what_is_not_known_is_left_unchanged() -> None:
    log_q = log_or_unchanged(torch.tensor([0.25, torch.nan]), torch.tensor([5.0, 2.0]))
    torch.testing.assert_close(log_q.exp(), torch.tensor([0.25, torch.tensor(2.0).sigmoid().item()]))


def test_a_class_has_the_rows_in_which_it_competes() -> None:
    z = torch.tensor([[1.0, 0.0, ABSENT], [0.0, ABSENT, ABSENT], [0.0, 1.0, ABSENT]])
    one, other, none = class_rows(calibration_rows(z, torch.tensor([0, 0, 1]), torch.tensor([1.0, 2.0, 3.0])))
    assert one.yes.tolist() == [True, False]
    assert one.weights.tolist() == [1.0, 3.0]
    assert other.scores.tolist() == [-1.0, 1.0]
    assert not len(none.scores)


@pytest.mark.parametrize("make", [BetaCalibration, IsotonicCalibration, PlattScaling])
def test_the_map_of_two_classes_keeps_the_order_of_rows(make: type[Calibrator]) -> None:
    generator = torch.Generator().manual_seed(0)
    z = 1.5 * torch.randn(600, 2, generator=generator, dtype=torch.float64)
    y: Tensor = z.softmax(-1).multinomial(1, generator=generator).squeeze(1)
    calibrated = make().double().fit(3 * z, y)(3 * z)
    order = (z[:, 1] - z[:, 0]).argsort()
    assert ((calibrated[:, 1] - calibrated[:, 0])[order].diff() >= -1e-12).all()  # rounding
