import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from logitwatch.calibrators.isotonic import IsotonicCalibration, isotonic_means


def pairs(*margins: float) -> torch.Tensor:
    return torch.tensor([[0.0, s] for s in margins])


def test_between_knots_it_is_straight_and_beyond_level() -> None:
    isotonic = IsotonicCalibration(floor=0.1).fit(pairs(0.0, 2.0), torch.tensor([0, 1]))
    p = isotonic(pairs(-5.0, 0.0, 0.5, 1.0, 2.0, 9.0)).softmax(-1)[:, 1]
    torch.testing.assert_close(p, torch.tensor([0.1, 0.1, 0.3, 0.5, 0.9, 0.9]))


def test_the_floor_is_half_a_row_unless_given() -> None:
    z, y = pairs(-1.0, 1.0), torch.tensor([0, 1])
    assert IsotonicCalibration().fit(z, y)(z).softmax(-1)[0, 1].item() == pytest.approx(0.25)
    weighted = IsotonicCalibration().fit(z, y, weights=torch.tensor([5.0, 5.0]))
    assert weighted(z).softmax(-1)[0, 1].item() == pytest.approx(0.05)
    assert IsotonicCalibration(floor=0.0).fit(z, y)(z).softmax(-1).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_floor_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="floor must be in"):
        IsotonicCalibration(floor=0.5)


def test_without_a_floor_a_row_of_which_nothing_is_left_is_even() -> None:
    z = torch.eye(3) * 9
    isotonic = IsotonicCalibration(floor=0.0).fit(z, torch.arange(3))
    torch.testing.assert_close(isotonic(torch.zeros(3)).softmax(-1), torch.full((3,), 1 / 3))


def test_knots_are_only_where_the_map_bends() -> None:
    s = torch.linspace(-3, 3, 1000)
    isotonic = IsotonicCalibration().fit(torch.stack((torch.zeros_like(s), s), 1), (s > 0).long())
    assert isotonic.knots.shape == (2, 4)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=12),
)
def test_means_are_ordered_and_no_ordered_sequence_is_nearer(data: list[tuple[int, int]]) -> None:
    means, weights = torch.tensor(data, dtype=torch.float64).unbind(1)
    fitted = isotonic_means(means, weights)
    assert (fitted.diff() >= 0).all()
    # The projection on a convex cone: what is left is orthogonal to it, and no generator of the cone leans towards it.
    rest = weights * (means - fitted)
    assert abs(rest @ fitted) < 1e-9
    assert rest.sum().abs() < 1e-9
    assert (rest.flip(0).cumsum(0) < 1e-9).all()


def test_a_map_that_falls_everywhere_is_its_mean() -> None:
    fitted = isotonic_means(torch.arange(5.0, 0.0, -1.0), torch.ones(5))
    assert fitted.tolist() == [3.0] * 5
