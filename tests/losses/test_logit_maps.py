import pytest
import torch

from logitwatch.losses.logit_maps import LogitMap, LogitNorm, SoftCap
from logitwatch.losses.logit_norm import logit_norm_cross_entropy
from logitwatch.losses.soft_cap import soft_cap_saturation

ABSENT = float("-inf")
MAPS = {"soft_cap": SoftCap(2.0), "logit_norm": LogitNorm(0.5, 1e-3)}


@pytest.fixture(params=MAPS)
def mapped(request: pytest.FixtureRequest) -> LogitMap:
    return MAPS[request.param]


def logits() -> torch.Tensor:
    return 3 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_gradient_goes_back_as_finite_differences_say(mapped: LogitMap) -> None:
    z, step = logits(), 1e-6
    g = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pulled = g.clone()
    mapped.pull(pulled, mapped.apply(z.clone()))
    for i in range(5):
        up, down = z.clone(), z.clone()
        up[:, i] += step
        down[:, i] -= step
        mapped.apply(up), mapped.apply(down)
        # central differences of step 1e-6: error 1e-12 of the third derivative, 1e-10 of rounding
        torch.testing.assert_close(pulled[:, i], (g * (up - down)).sum(1) / (2 * step), rtol=1e-6, atol=1e-8)


def test_an_absent_class_stays_absent_and_changes_no_other(mapped: LogitMap) -> None:
    z = torch.cat((logits(), torch.full((4, 1), ABSENT)), dim=1)
    alone = logits()
    mapped.apply(z), mapped.apply(alone)
    assert (z[:, -1] == ABSENT).all()
    torch.testing.assert_close(z[:, :-1], alone)


def test_of_a_cap_it_is_known_how_many_present_logits_are_saturated() -> None:
    z = torch.tensor([[60.0, -60.0, 54.0, 55.0, 0.0, ABSENT], [0.0, 1.0, 2.0, 3.0, 4.0, ABSENT]])
    expected = soft_cap_saturation(z) * 5
    cap = SoftCap(30.0)
    assert cap.saturated(cap.apply(z.clone()), z[0] == ABSENT).tolist() == expected.tolist() == [3, 0]
    assert cap.saturated(cap.apply(z[:, :5].clone()), None).tolist() == [3, 0]
    norm = LogitNorm(1.0, 1e-3)
    assert norm.saturated(norm.apply(z.clone()), None) is None  # type: ignore[func-returns-value]


def test_a_cap_bounds_and_keeps_small_logits() -> None:
    z = torch.tensor([[1e30, -1e30, 1e-3]])
    SoftCap(30.0).apply(z)
    torch.testing.assert_close(z, torch.tensor([[30.0, -30.0, 1e-3]]))


def test_normalised_logits_are_those_of_the_logit_norm_loss() -> None:
    z, targets = logits(), torch.tensor([0, 1, 2, 3])
    expected = logit_norm_cross_entropy(z, targets, temperature=0.5)
    LogitNorm(0.5, 1e-3).apply(z)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(z, targets, reduction="none"), expected)


@pytest.mark.parametrize("row", [[0.0, 0.0], [1e30, -1e30]])
def test_a_row_of_zeros_and_one_of_huge_logits_stay_finite(mapped: LogitMap, row: list[float]) -> None:
    z, gradient = torch.tensor([row]), torch.ones(1, 2)
    mapped.pull(gradient, mapped.apply(z))
    assert z.isfinite().all()
    assert gradient.isfinite().all()
