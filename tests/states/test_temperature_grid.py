import math

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.nn import functional as F

from logitwatch.states import temperature_grid
from logitwatch.states.protocol import pack, to_device
from logitwatch.states.temperature_grid import TemperatureGrid


def predictions(
    rows: int = 1000, classes: int = 10, *, temperature: float = 1.8, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits like a network's: one class raised by a margin that varies, labels drawn at ``temperature``."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    z[:, 0] += 8 * torch.rand(rows, generator=generator)
    y = (z / temperature).softmax(-1).multinomial(1, generator=generator).squeeze(1)
    return z.float(), y


def slope(z: Tensor, y: Tensor, log_beta: float) -> Tensor:
    """Derivative of the NLL of each row by the inverse temperature, float64."""
    p = (z.double() * math.exp(log_beta)).softmax(-1)
    return (p * z).sum(-1) - (z * F.one_hot(y, z.shape[1])).sum(-1)


def best_temperature(z: Tensor, y: Tensor) -> float:
    z = z.double()
    root = brentq(lambda u: slope(z, y, u).mean().item(), -14, 12, xtol=1e-13, rtol=1e-13)
    return math.exp(-root)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.8])
def test_the_temperature_is_the_root_of_the_slope(classes: int, temperature: float) -> None:
    z, y = predictions(500, classes, temperature=temperature)
    seen = TemperatureGrid.of(z, y)
    expected = best_temperature(z, y)
    # Interpolation leaves 1e-6; float32 sums over the classes of a row as much.
    assert seen.temperature().item() == pytest.approx(expected, rel=5e-6)
    assert seen.verdict() == "ok"
    nll = F.cross_entropy(z.double() / expected, y).item()
    assert seen.nll_at_optimum().item() == pytest.approx(nll, rel=1e-6)
    assert seen.nll().item() == pytest.approx(F.cross_entropy(z.double(), y).item(), rel=1e-6)


@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_the_promised_error_holds_where_all_rows_are_alike(classes: int) -> None:
    z = torch.zeros(2000, classes)
    z[:, 0] = math.log(classes) + 1
    _, y = predictions(2000, classes)
    y = torch.where(torch.arange(2000) % 2 == 0, 0, y)
    assert TemperatureGrid.of(z, y).temperature().item() == pytest.approx(best_temperature(z, y), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 7.0, 1e4])
@pytest.mark.parametrize("temperature", [0.5, 1.8])
def test_scaling_the_logits_scales_the_temperature(temperature: float, scale: float) -> None:
    z, y = predictions(temperature=temperature)
    one, scaled = TemperatureGrid.of(z, y), TemperatureGrid.of(scale * z, y)
    # Each side has its error of 1e-6, and the scaled logits were rounded.
    assert scaled.temperature().item() == pytest.approx(scale * one.temperature().item(), rel=5e-6)
    assert scaled.nll_at_optimum().item() == pytest.approx(one.nll_at_optimum().item(), rel=1e-6)
    relative = [state.standard_error() / state.temperature() for state in (one, scaled)]
    assert relative[1].item() == pytest.approx(relative[0].item(), rel=1e-2)  # as documented


def test_a_constant_added_to_a_row_changes_nothing() -> None:
    z, y = predictions()
    z = (z * 256).round() / 256  # so that the sums below are exact
    shift = torch.arange(1000).unsqueeze(1) % 17 - 8
    torch.testing.assert_close(pack(TemperatureGrid.of(z + shift, y)).sums, pack(TemperatureGrid.of(z, y)).sums)


@pytest.mark.parametrize("classes", [3, 500])
def test_merged_parts_give_the_temperature_of_the_whole(classes: int) -> None:
    z, y = predictions(700, classes)
    whole = TemperatureGrid.of(z, y)
    for sizes in ([1, 699], [350, 349, 1], [100] * 7):
        merged = TemperatureGrid.empty()
        for part, labels in zip(z.split(sizes), y.split(sizes), strict=True):
            merged = merged.merge(TemperatureGrid.of(part, labels))
        assert torch.equal(merged.counts, whole.counts)
        torch.testing.assert_close(pack(merged).sums, pack(whole).sums, rtol=1e-12, atol=1e-9)  # float64 sums
        assert merged.temperature().item() == pytest.approx(whole.temperature().item(), rel=1e-12)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_calibration_loss_is_what_a_temperature_saves_and_never_negative(factor: float) -> None:
    z, y = predictions()
    z = z / best_temperature(z, y) * factor
    seen = TemperatureGrid.of(z, y)
    assert seen.calibration_loss().item() >= 0
    saved = F.cross_entropy(z.double(), y) - F.cross_entropy(z.double() / factor, y)
    assert seen.calibration_loss().item() == pytest.approx(saved.item(), abs=1e-6)


def test_the_standard_error_is_the_sandwich() -> None:
    z, y = predictions(3000, temperature=2.5)
    seen = TemperatureGrid.of(z, y)
    beta = 1 / best_temperature(z, y)
    gradient = beta * slope(z, y, math.log(beta))
    p = (z.double() * beta).softmax(-1)
    variance = (p * z * z).sum(-1) - (p * z).sum(-1).square()
    expected = gradient.square().sum().sqrt() / (beta**2 * variance).sum() / beta
    assert seen.standard_error().item() == pytest.approx(expected.item(), rel=1e-2)  # as documented


def test_the_standard_error_is_how_far_temperatures_of_samples_scatter() -> None:
    fits = [TemperatureGrid.of(*predictions(400, 5, seed=seed)).fit() for seed in range(200)]
    scatter = torch.tensor([fit.temperature for fit in fits]).std().item()
    typical = torch.tensor([fit.standard_error for fit in fits]).median().item()
    # The deviation of 200 samples is known to 5 %; four times that.
    assert typical == pytest.approx(scatter, rel=0.2)


def test_separable_rows_have_no_temperature() -> None:
    z, _ = predictions()
    seen = TemperatureGrid.of(z, z.argmax(-1))
    assert seen.verdict() == "separable"
    assert seen.temperature().isnan()
    assert seen.standard_error().isnan()
    assert seen.nll_at_optimum().item() == pytest.approx(0, abs=1e-6)
    assert seen.merge(TemperatureGrid.of(*predictions())).verdict() == "ok"


def test_one_row_that_is_wrong_is_enough_for_a_temperature() -> None:
    z = torch.tensor([[2.0, 0.0]]).repeat(1000, 1)
    y = torch.zeros(1000, dtype=torch.int64)
    y[0] = 1
    assert TemperatureGrid.of(z, y).temperature().item() == pytest.approx(2 / math.log(999), rel=1e-5)


def test_random_labels_are_uninformative_whatever_the_draw() -> None:
    verdicts = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        z = 3 * torch.randn(500, 5, generator=generator)
        seen = TemperatureGrid.of(z, torch.randint(5, (500,), generator=generator))
        verdicts.append(seen.verdict())
        assert seen.temperature().isnan()
        assert seen.nll_at_optimum().item() <= math.log(5) + 1e-6
    assert set(verdicts) == {"uninformative"}


def test_labels_that_are_never_the_likeliest_are_uninformative() -> None:
    z, _ = predictions()
    seen = TemperatureGrid.of(z, z.argmin(-1))
    assert seen.verdict() == "uninformative"
    assert seen.nll_at_optimum().item() == pytest.approx(math.log(10), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-5, 1e5])
def test_a_temperature_off_the_grid_is_not_reported(scale: float) -> None:
    z, y = predictions()
    seen = TemperatureGrid.of(scale * z, y)
    assert seen.verdict() == "outside"
    assert seen.temperature().isnan()
    assert seen.nll_at_optimum().item() <= seen.nll().item()


def test_a_target_that_is_absent_makes_every_temperature_impossible() -> None:
    z, y = predictions()
    z[5, y[5]] = -math.inf
    seen = TemperatureGrid.of(z, y)
    assert seen.verdict() == "impossible"
    assert seen.nll().item() == seen.nll_at_optimum().item() == math.inf
    assert not pack(seen).sums.isnan().any()
    assert seen.temperature().isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_absent_classes_are_as_classes_that_are_not_there(dtype: torch.dtype) -> None:
    z, y = predictions()
    z = z.to(dtype)
    padded = torch.cat((z, torch.full((1000, 7), -math.inf, dtype=dtype)), dim=1)
    torch.testing.assert_close(pack(TemperatureGrid.of(padded, y)).sums, pack(TemperatureGrid.of(z, y)).sums)


def test_huge_logits_give_finite_sums() -> None:
    z = torch.tensor([[1e30, -1e30], [3e38, 0.0], [0.0, 1.0]])
    seen = TemperatureGrid.of(z, torch.tensor([0, 0, 0]))
    assert pack(seen).sums.isfinite().all()


def test_nothing_seen_has_no_temperature() -> None:
    nothing = TemperatureGrid.empty()
    assert nothing.verdict() == "empty"
    for read_out in ("temperature", "standard_error", "nll", "nll_at_optimum", "calibration_loss"):
        assert getattr(nothing, read_out)().isnan()


def test_rows_seen_are_counted_ignored_nonfinite_or_without_a_target() -> None:
    z, y = predictions(8)
    z[0, 0], z[1, 1], z[2] = torch.nan, torch.inf, -torch.inf
    y[2], y[3], y[4], y[5] = -100, -100, 10, -1
    seen = TemperatureGrid.of(z, y)
    parts = (seen.count, seen.nonfinite, seen.ignored, seen.bad_target)
    assert [part.item() for part in parts] == [2, 3, 1, 2]
    torch.testing.assert_close(seen.nlls, TemperatureGrid.of(z[6:], y[6:]).nlls)


def test_any_class_index_can_be_the_ignored_one() -> None:
    z, y = predictions(50)
    seen = TemperatureGrid.of(z, y, ignore_index=0)
    assert seen.ignored.item() == (y == 0).sum()
    torch.testing.assert_close(seen.nlls, TemperatureGrid.of(z[y != 0], y[y != 0]).nlls)


def test_probabilities_that_are_one_hot_are_as_class_indices() -> None:
    z, y = predictions()
    soft = TemperatureGrid.of(z, F.one_hot(y, 10).float())
    torch.testing.assert_close(pack(soft).sums, pack(TemperatureGrid.of(z, y)).sums, rtol=1e-6, atol=1e-6)


def test_the_temperature_of_tempered_probabilities_is_theirs() -> None:
    z, _ = predictions()
    seen = TemperatureGrid.of(z, (z / 2.5).softmax(-1))
    assert seen.temperature().item() == pytest.approx(2.5, rel=1e-5)  # float32 probabilities
    assert seen.standard_error().item() == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("span", [(1.0, 8.0), (0.5, 3.0), (20.0, 30.0)])
def test_a_narrow_span_gives_the_same_temperature_from_fewer_nodes(span: tuple[float, float]) -> None:
    z, y = predictions()
    z = z * math.sqrt(span[0] * span[1])
    whole, narrow = TemperatureGrid.of(z, y), TemperatureGrid.of(z, y, span=span)
    assert (narrow.counts > 0).sum() < (whole.counts > 0).sum()
    assert narrow.temperature().item() == pytest.approx(whole.temperature().item(), rel=1e-12)
    assert narrow.nll().item() == pytest.approx(whole.nll().item(), rel=1e-12)


def test_the_optimum_is_looked_for_where_all_rows_were() -> None:
    z, y = predictions()
    half = TemperatureGrid.of(z[:500], y[:500], span=(1.0, 8.0))
    both = half.merge(TemperatureGrid.of(z[500:], y[500:]))
    assert both.count.item() == 1000
    assert both.temperature().item() == pytest.approx(TemperatureGrid.of(z, y).temperature().item(), rel=1e-12)
    assert TemperatureGrid.of(100 * z, y, span=(1.0, 8.0)).verdict() == "outside"


@pytest.mark.parametrize("span", [(0.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_a_span_that_is_none_is_refused(span: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two positive temperatures"):
        TemperatureGrid.of(*predictions(2), span=span)


def test_nothing_the_size_of_logits_times_nodes_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    plain = temperature_grid._moments
    monkeypatch.setattr(temperature_grid, "_moments", lambda c, betas: sizes.append(c.numel()) or plain(c, betas))
    z, y = predictions(1000, 500)
    TemperatureGrid.of(z, y)
    assert sum(sizes) == z.numel()
    assert max(sizes) * 10 <= 131_072  # of each of the ten chains


def test_the_state_is_small_and_reads_out_on_its_own_device() -> None:
    assert pack(TemperatureGrid.empty()).sums.nbytes < 2500
    seen = to_device(TemperatureGrid.of(*predictions()), "cpu")
    assert seen.temperature().dtype == seen.nll_at_optimum().dtype == torch.float64
