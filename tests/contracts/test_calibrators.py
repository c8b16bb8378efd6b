"""What every calibrator promises, see `logitwatch.calibrators.base.Calibrator`."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from logitwatch.calibrators import (
    BetaCalibration,
    BiasCorrection,
    Calibrator,
    HistogramBinning,
    Identity,
    IsotonicCalibration,
    MatrixScaling,
    PlattScaling,
    TemperatureScaling,
    VectorScaling,
)

Make = Callable[[], Calibrator]
ABSENT = -torch.inf
CLASSES = 4

CALIBRATORS: dict[str, Make] = {
    "beta": BetaCalibration,
    "bias": BiasCorrection,
    "histogram": HistogramBinning,
    "histogram_mass": lambda: HistogramBinning(strategy="mass"),
    "identity": Identity,
    "isotonic": IsotonicCalibration,
    "matrix": MatrixScaling,
    "matrix_regularised": lambda: MatrixScaling(off_diagonal=0.1, intercept_penalty=0.01),
    "platt": PlattScaling,
    "temperature": TemperatureScaling,
    "vector": VectorScaling,
}

pytestmark = pytest.mark.parametrize("make", CALIBRATORS.values(), ids=CALIBRATORS.keys())


def batch(rows: int = 600, classes: int = CLASSES, *, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Over-confident logits, by a factor ``scale``, with targets."""
    generator = torch.Generator().manual_seed(seed)
    z = 1.5 * torch.randn(rows, classes, generator=generator)
    return scale * z, z.softmax(-1).multinomial(1, generator=generator).squeeze(1)


def with_absent(z: Tensor) -> Tensor:
    """One class absent, all but one absent, and none present."""
    z = z.clone()
    z[0, 1], z[1, 1:], z[2] = ABSENT, ABSENT, ABSENT
    return z


def assert_same(ours: Tensor, wanted: Tensor, tolerance: float = 0.0) -> None:
    torch.testing.assert_close(ours, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_fit_returns_the_calibrator_and_the_forward_keeps_the_shape(make: Make) -> None:
    z, y = batch()
    calibrator = make()
    assert calibrator.fit(z, y) is calibrator
    assert calibrator(z[0]).shape == (CLASSES,)
    assert calibrator(z[:0]).shape == (0, CLASSES)
    flat, sequences = calibrator(z), make().fit(z.view(20, 30, CLASSES), y.view(20, 30))(z.view(20, 30, CLASSES))
    assert_same(sequences.view(-1, CLASSES), flat)


def test_the_probabilities_sum_to_one(make: Make) -> None:
    z, y = batch()
    p = make().fit(z, y)(with_absent(z)[[0, 1, *range(3, 600)]]).softmax(-1)
    assert_same(p.sum(-1), torch.ones(len(p)), 1e-6)  # float32


def test_it_improves_over_confident_logits(make: Make) -> None:
    z, y = batch(4000)
    calibrated = make().fit(z[:3000], y[:3000])(z[3000:])
    before = F.cross_entropy(z[3000:], y[3000:])
    # Without a bias to find, a bias is found in the noise.
    slack = 0.01 if make in (BiasCorrection, Identity) else -0.05
    assert F.cross_entropy(calibrated, y[3000:]) < before + slack


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_good_as_its_copy_in_float32(make: Make, dtype: torch.dtype) -> None:
    z, y = batch()
    half, copied = make().fit(z.to(dtype), y), make().fit(z.to(dtype).float(), y)
    result = half(z.to(dtype))
    assert result.dtype == torch.float32
    assert_same(result, copied(z.to(dtype).float()))


def test_float64_stays_float64(make: Make) -> None:
    z, y = batch()
    calibrator = make().double().fit(z.double(), y)
    assert calibrator(z.double()).dtype == torch.float64
    # Knots may be a float32 rounding away, on the other side of a step.
    close = (calibrator(z.double()) - make().fit(z, y)(z)).abs().amax(1) < 1e-3
    assert close.double().mean() > 0.98


def test_absent_classes_stay_absent_and_make_no_nan(make: Make) -> None:
    z, y = batch()
    y[:3] = torch.tensor([0, 0, 1])
    calibrator = make().fit(with_absent(z), y)
    assert (calibrator.rows_used.item(), calibrator.rows_left_out.item()) == (599, 1)
    calibrated = calibrator(with_absent(z))
    assert not calibrated.isnan().any()
    assert torch.equal(calibrated == ABSENT, with_absent(z) == ABSENT)


def test_a_class_absent_from_every_row_stays_so_and_is_taken_if_it_comes_back(make: Make) -> None:
    z, y = batch(classes=3)
    calibrator = make().fit(F.pad(z, (0, 1), value=ABSENT), y)
    assert_same(calibrator(F.pad(z, (0, 1), value=ABSENT))[:, 3], torch.full((600,), ABSENT))
    assert calibrator(F.pad(z, (0, 1), value=1.0)).isfinite().all()


def test_rows_that_are_not_finite_have_no_probabilities(make: Make) -> None:
    z, y = batch()
    z[0, 0], z[1, 1] = torch.nan, torch.inf
    calibrator = make().fit(z, y)
    assert (calibrator.rows_used.item(), calibrator.rows_left_out.item()) == (598, 2)
    p = calibrator(z).softmax(-1)
    assert p[:2].isnan().all()
    assert p[2:].isfinite().all()
    assert_same(make().fit(z[2:], y[2:])(z[2:]), calibrator(z[2:]))


def test_ignored_rows_are_counted_and_change_nothing(make: Make) -> None:
    z, y = batch()
    masked, weights = torch.where(torch.arange(600) < 100, 9, y), (torch.arange(600) < 500).float()
    calibrator = make().fit(z, masked, weights=weights, ignore_index=9)
    assert (calibrator.rows_used.item(), calibrator.rows_ignored.item()) == (400, 200)
    assert_same(calibrator(z), make().fit(z[100:500], y[100:500])(z))


def test_the_order_of_rows_does_not_matter(make: Make) -> None:
    z, y = batch()
    order = torch.randperm(600, generator=torch.Generator().manual_seed(1))
    # The searches stop within 1e-9 of a flat gradient; float32 buffers.
    assert_same(make().fit(z[order], y[order])(z), make().fit(z, y)(z), 2e-5)


def test_weights_count_as_repeated_rows(make: Make) -> None:
    z, y = batch()
    weights = torch.randint(0, 4, (600,), generator=torch.Generator().manual_seed(1))
    weighted = make().fit(z, y, weights=weights)
    repeated = make().fit(z.repeat_interleave(weights, 0), y.repeat_interleave(weights))
    assert_same(weighted(z), repeated(z), 2e-5)  # as above


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0, 1e4])
def test_logits_of_any_scale_are_fitted_without_a_warning(make: Make, scale: float) -> None:
    z, y = batch(1500)
    calibrated = make().fit(scale * z, y)(scale * z)
    assert calibrated.isfinite().all()
    if make not in (BiasCorrection, Identity):  # which cannot scale
        # The histogram of nearly even probabilities has one bin, and then predicts the prior.
        assert F.cross_entropy(calibrated, y) < 1.4


def test_the_state_loads_into_a_fresh_one_wherever_it_is(make: Make) -> None:
    z, y = batch()
    fitted = make().fit(z, y)
    stored = io.BytesIO()
    torch.save(nn.Sequential(nn.Identity(), fitted).state_dict(), stored)
    stored.seek(0)
    other = make().fit(*batch(classes=7, seed=1))
    for fresh in (make(), other):
        model = nn.Sequential(nn.Identity(), fresh)
        model.load_state_dict(torch.load(stored, weights_only=True))
        stored.seek(0)
        assert_same(model(with_absent(z)), fitted(with_absent(z)))
        assert fresh.rows_used.item() == 600


def test_copies_and_pickles_are_fitted_too(make: Make) -> None:
    z, y = batch()
    fitted = make().fit(z, y)
    for other in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted)) if isinstance(make, type) else fitted):
        assert_same(other(z), fitted(z))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("how", ["script", "trace", "export"])
def test_it_is_scripted_traced_and_exported(make: Make, how: str) -> None:
    z, y = batch()
    fitted = make().fit(z, y)
    packed = packed_by(how, fitted, z.bfloat16())
    few = with_absent(z[:33]).bfloat16()
    assert_same(packed(few), fitted(few), 1e-6)  # kernels may be fused


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("how", ["eager", "script", "trace", "export"])
def test_before_the_fit_every_use_is_an_error(make: Make, how: str) -> None:
    z, _ = batch(5)
    with pytest.raises(Exception, match=r"fit\(logits, targets\) first"):
        packed_by(how, make(), z)(z)


def test_the_state_of_an_unfitted_one_is_unfitted(make: Make) -> None:
    z, y = batch()
    calibrator = make().fit(z, y)
    calibrator.load_state_dict(make().state_dict())
    with pytest.raises(RuntimeError, match="expected a fitted calibrator"):
        calibrator(z)


def test_it_is_fitted_amid_inference_and_autocast_and_then_trained_through(make: Make) -> None:
    z, y = batch()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        fitted = make().fit(z, y)
        amid = fitted(z)
    assert_same(amid, make().fit(z, y)(z))
    assert not list(fitted.parameters())
    F.cross_entropy(fitted(z.requires_grad_()), y).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    make().fit(z, y)  # and logits that carry a graph are taken


def test_one_class_is_an_error_that_says_so(make: Make) -> None:
    z, y = batch()
    with pytest.raises(ValueError, match="two classes or more, got 600 rows that are all of class 2"):
        make().fit(z, torch.full_like(y, 2))


def test_another_number_of_classes_is_an_error(make: Make) -> None:
    z, y = batch()
    fitted = make().fit(z, y)
    if make in (Identity, TemperatureScaling):
        assert fitted(z[:, :3]).shape == (600, 3)
        return
    with pytest.raises(ValueError, match=r"\[\.\.\., 4\] as in the fit, got shape \(600, 3\)"):
        fitted(z[:, :3])


def test_a_failed_fit_leaves_what_was_there(make: Make) -> None:
    z, y = batch()
    fitted = make().fit(z, y)
    before = fitted(z)
    with pytest.raises(ValueError, match="expected rows to fit"):
        fitted.fit(z, torch.full_like(y, -100))
    assert_same(fitted(z), before)


def packed_by(how: str, calibrator: Calibrator, example: Tensor) -> Callable[[Tensor], Tensor]:
    if how == "eager":
        return calibrator
    if how == "script":
        scripted: Callable[[Tensor], Tensor] = torch.jit.script(calibrator)
        return scripted
    if how == "trace":
        traced: Callable[[Tensor], Tensor] = torch.jit.trace(calibrator, example)
        return traced
    rows: Any = ({0: torch.export.Dim("rows")},)
    exported = torch.export.export(calibrator, (example,), dynamic_shapes=rows)
    module: Callable[[Tensor], Tensor] = exported.module()
    return module
