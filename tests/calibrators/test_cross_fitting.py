import pytest
import torch

from logitwatch.calibrators.cross_fitting import cross_fitted, stratified_folds
from logitwatch.calibrators.temperature import TemperatureScaling


def batch(rows=90, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, classes, generator=generator)
    return z, z.softmax(-1).multinomial(1, generator=generator).squeeze(1)


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_each_row_is_calibrated_by_a_map_that_has_not_seen_it(folds):
    z, y = batch()
    fold = stratified_folds(y, folds)
    seen = []

    def fit(rows):
        seen.append(rows)
        return TemperatureScaling().fit(z[rows], y[rows])

    calibrated = cross_fitted(fit, z, fold)
    assert calibrated.shape == z.shape
    for f, rows in enumerate(seen):
        assert torch.equal(rows, fold != f)
        expected = TemperatureScaling().fit(z[fold != f], y[fold != f])(z[fold == f])
        assert torch.equal(calibrated[fold == f], expected)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_each_class_is_dealt_out_evenly_and_every_fold_is_as_large(folds):
    _, y = batch()
    fold = stratified_folds(y, folds)
    for label in range(3):
        sizes = torch.bincount(fold[y == label], minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    assert torch.bincount(fold).max() - torch.bincount(fold).min() <= 1


def test_folds_are_the_same_when_asked_again_and_draw_nothing_from_the_run():
    _, y = batch()
    before = torch.get_rng_state()
    assert torch.equal(stratified_folds(y, 5), stratified_folds(y, 5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("folds", [1, 0, 4])
def test_too_few_or_too_many_folds_are_refused(folds):
    with pytest.raises(ValueError, match=f"folds must be 2 or more and at most the rows, 3, got {folds}"):
        stratified_folds(torch.tensor([0, 1, 0]), folds)
