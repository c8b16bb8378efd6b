import pytest
import torch

from logitwatch.calibrators.histogram import HistogramBinning


def binary(*p: float) -> torch.Tensor:
    q = torch.tensor(p)
    return torch.stack(((1 - q).log(), q.log()), 1)


def test_bins_are_closed_below_and_the_last_above() -> None:
    z = binary(0.2, 0.5, 0.9, 1.0)
    binning = HistogramBinning(num_bins=2, floor=0.0).fit(z, torch.tensor([1, 0, 1, 1]))
    assert binning.edges.tolist() == [[0.0], [0.0]]  # as log-odds
    # A tie is in the upper bin of either class. An only class says nothing.
    assert binning.values[1].tolist() == pytest.approx([1.0, 0.5])
    assert binning.values[0].tolist() == pytest.approx([0.0, 0.5])


def test_an_empty_bin_leaves_the_probability_as_it_is() -> None:
    binning = HistogramBinning(num_bins=10).fit(binary(0.05, 0.95, 0.05, 0.95), torch.tensor([0, 1, 1, 1]))
    assert binning.values[1].isfinite().tolist() == [True, *[False] * 8, True]
    p = binning(binary(0.05, 0.33, 0.95)).softmax(-1)[:, 1]
    torch.testing.assert_close(p, torch.tensor([0.5, 0.33, 0.75]))


def test_the_floor_is_half_a_row_of_the_bin_unless_given() -> None:
    z, y = binary(0.1, 0.2, 0.3, 0.9), torch.tensor([0, 0, 0, 1])
    assert HistogramBinning(num_bins=2).fit(z, y).values[1].tolist() == pytest.approx([1 / 6, 0.5])
    assert HistogramBinning(num_bins=2, floor=0.01).fit(z, y).values[1].tolist() == pytest.approx([0.01, 0.99])


def test_bins_of_equal_mass_count_weights() -> None:
    z = binary(0.1, 0.2, 0.3, 0.4)
    weights = torch.tensor([3.0, 1.0, 1.0, 1.0])
    binning = HistogramBinning(num_bins=2, strategy="mass").double().fit(z, torch.tensor([0, 1, 0, 1]), weights=weights)
    assert binning.edges[1].sigmoid().item() == pytest.approx(0.2, rel=1e-6)


def test_a_tie_is_not_split() -> None:
    z = binary(*[0.5] * 6, 0.9, 0.9)
    binning = HistogramBinning(num_bins=4, strategy="mass").fit(z, torch.tensor([0, 1, 0, 1, 0, 1, 1, 1]))
    p = binning(z).softmax(-1)[:, 1]
    torch.testing.assert_close(p, torch.tensor([*[0.5] * 6, 0.75, 0.75]))


def test_one_bin_is_the_prior() -> None:
    binning = HistogramBinning(num_bins=1).fit(binary(0.1, 0.2, 0.3, 0.9), torch.tensor([0, 0, 0, 1]))
    assert binning(binary(0.7)).softmax(-1)[0, 1].item() == pytest.approx(0.25)


def test_options_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="num_bins must be >= 1, got 0"):
        HistogramBinning(num_bins=0)
    with pytest.raises(ValueError, match="strategy must be one of mass, width, got 'quantile'"):
        HistogramBinning(strategy="quantile")
    with pytest.raises(ValueError, match="floor must be in"):
        HistogramBinning(floor=0.5)
