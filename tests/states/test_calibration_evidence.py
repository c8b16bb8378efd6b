import math

import pytest
import torch
from torch import Tensor

from logitwatch.states.calibration_evidence import CalibrationEvidence, _bets, alarm_threshold

LOOKS, ROWS = 100, 100  # looks at a stream, and fresh rows between two of them


def draws(streams: int, rows: int, *, gap: float = 0.0, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Confidences in ``[0.4, 1]`` and what came of them, ``[streams, rows]``, right less often by ``gap``."""
    confidence = 1 - 0.6 * torch.rand(streams, rows, generator=generator, dtype=torch.float64).square()
    return confidence, torch.rand(streams, rows, generator=generator) < confidence - gap


def evidence(confidence: Tensor, correct: Tensor) -> CalibrationEvidence:
    return CalibrationEvidence.of_rows(confidence, correct, torch.zeros_like(confidence))


def log_e_values(confidence: Tensor, correct: Tensor) -> Tensor:
    """Of each stream after each row, by the definition: the mean over bets of products over rows."""
    factors = 1 + _bets(confidence.device) * (confidence - correct.double()).unsqueeze(-1)
    return factors.log().cumsum(1).logsumexp(-1) - math.log(16)


def test_the_e_value_is_the_mean_over_bets_of_products_over_rows() -> None:
    c, y = draws(1, 300, generator=torch.Generator().manual_seed(0))
    seen = evidence(c[0], y[0])
    assert seen.log_e_value().item() == pytest.approx(log_e_values(c, y)[0, -1].item(), rel=1e-12)
    assert seen.e_value().item() == pytest.approx(seen.log_e_value().exp().item(), rel=1e-15)


def test_the_expected_e_value_of_a_calibrated_row_is_one() -> None:
    for c in torch.linspace(0, 1, 11, dtype=torch.float64):
        right, wrong = (evidence(c.unsqueeze(0), torch.tensor([y])).e_value() for y in (True, False))
        assert (c * right + (1 - c) * wrong).item() == pytest.approx(1, abs=1e-14)


def test_at_most_one_calibrated_stream_in_twenty_is_alarmed_in_a_hundred_looks() -> None:
    generator = torch.Generator().manual_seed(0)
    streams = 1000
    wealth = torch.zeros(streams, 16, dtype=torch.float64)
    numerator, variance = torch.zeros(streams, dtype=torch.float64), torch.zeros(streams, dtype=torch.float64)
    alarmed, significant = torch.zeros(streams, dtype=torch.bool), torch.zeros(streams, dtype=torch.bool)
    for _ in range(LOOKS):
        c, y = draws(streams, ROWS, generator=generator)
        wealth += torch.log1p(_bets(c.device) * (c - y.double()).unsqueeze(-1)).sum(1)
        alarmed |= wealth.logsumexp(1) - math.log(16) >= math.log(20)
        # Spiegelhalter's z, a test for one look, as it fares when looked at a hundred times.
        numerator += ((y.double() - c) * (1 - 2 * c)).sum(1)
        variance += ((1 - 2 * c).square() * c * (1 - c)).sum(1)
        significant |= (numerator / variance.sqrt()).abs() > 1.96
    # Three standard errors of a share of 5 % in 1000 streams.
    assert alarmed.double().mean().item() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / streams)
    assert significant.double().mean().item() > 0.25


@pytest.mark.parametrize(("gap", "rows"), [(0.05, 800), (0.10, 250)])
def test_a_gap_is_found_within_a_few_hundred_rows(gap: float, rows: int) -> None:
    c, y = draws(200, 3 * rows, gap=gap, generator=torch.Generator().manual_seed(1))
    over = log_e_values(c, y) >= math.log(20)
    first = torch.where(over.any(1), over.double().argmax(1), 10**9)
    assert first.median().item() < rows


def test_the_side_that_wins_tells_in_which_way_the_model_is_wrong() -> None:
    c = torch.full((1000,), 0.8)
    for right, winner, loser in ((0.7, "over", "under"), (0.9, "under", "over")):
        seen = evidence(c, torch.arange(1000) < 1000 * right)
        assert seen.log_e_value(winner).item() > math.log(20) > seen.log_e_value(loser).item()
        sides = torch.stack([seen.log_e_value("over"), seen.log_e_value("under")])
        assert seen.log_e_value().item() == pytest.approx(sides.logsumexp(0).item() - math.log(2), rel=1e-12)


def test_no_row_ruins_a_bet() -> None:
    seen = evidence(torch.tensor([1.0, 0.0, 2.0, -1.0]), torch.tensor([False, True, False, True]))
    assert seen.log_wealths.isfinite().all()
    assert _bets(torch.device("cpu")).abs().max().item() < 1


def test_overwhelming_evidence_is_a_number_in_logarithms() -> None:
    seen = evidence(torch.full((100_000,), 0.99), torch.zeros(100_000, dtype=torch.bool))
    assert math.isfinite(seen.log_e_value().item())
    assert seen.e_value().item() == math.inf


def test_rows_seen_are_counted_ignored_nonfinite_or_without_a_target() -> None:
    z = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 0, -100, -100, 5, -1, 1, 2])
    z[0, 0], z[1, 1], z[2] = torch.nan, torch.inf, -torch.inf
    seen = CalibrationEvidence.of(z, y)
    assert [part.item() for part in (seen.count, seen.nonfinite, seen.ignored, seen.bad_target)] == [2, 3, 1, 2]
    torch.testing.assert_close(seen.log_wealths, CalibrationEvidence.of(z[6:], y[6:]).log_wealths)
    ignoring = CalibrationEvidence.of(z[6:], y[6:], ignore_index=1)
    torch.testing.assert_close(ignoring.log_wealths, CalibrationEvidence.of(z[7:], y[7:]).log_wealths)


def test_the_shares_of_all_looks_are_alpha_together() -> None:
    shares = [1 / alarm_threshold(k, alpha=0.1) for k in range(1, 10_001)]
    assert sum(shares) == pytest.approx(0.1 * (1 - 1 / 10_001), rel=1e-12)


def test_epochs_over_one_validation_set_rarely_alarm() -> None:
    # The worst case for a single threshold: the rows stay, and labels are drawn anew as if each epoch were a new model.
    generator = torch.Generator().manual_seed(2)
    alarmed = torch.zeros(300, dtype=torch.bool)
    for epoch in range(1, 31):
        c, y = draws(300, 500, generator=generator)
        last = torch.log1p(_bets(c.device) * (c - y.double()).unsqueeze(-1)).sum(1).logsumexp(1) - math.log(16)
        alarmed |= last >= math.log(alarm_threshold(epoch))
    assert alarmed.double().mean().item() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: alarm_threshold(0), "look must be >= 1, got 0"),
        (lambda: alarm_threshold(1, alpha=1.0), "alpha must be in"),
        (lambda: CalibrationEvidence.empty().log_e_value("left"), 'side must be "both", "over" or "under"'),
    ],
)
def test_a_wrong_option_is_refused(act, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act()
