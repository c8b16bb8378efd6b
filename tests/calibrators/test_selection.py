from typing import final

import pytest
import torch
from torch import Tensor

from logitwatch.calibrators import (
    Calibrator,
    HistogramBinning,
    Identity,
    IsotonicCalibration,
    MatrixScaling,
    TemperatureScaling,
    VectorScaling,
    select_calibrator,
)
from logitwatch.calibrators.inputs import CalibrationRows
from logitwatch.functional.scores import nll


def batch(rows: int = 600, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = 1.5 * torch.randn(rows, classes, generator=generator)
    return z, z.softmax(-1).multinomial(1, generator=generator).squeeze(1)


CANDIDATES = {"temperature": TemperatureScaling(), "matrix": MatrixScaling(), "histogram": HistogramBinning()}


def test_what_the_logits_were_spoiled_by_is_what_is_chosen() -> None:
    z, y = batch()
    assert select_calibrator(CANDIDATES, z, y).name == "identity"
    assert select_calibrator(CANDIDATES, 3 * z, y).name == "temperature"
    several = {**CANDIDATES, "vector": VectorScaling()}
    assert select_calibrator(several, 3 * z + 4 * torch.arange(4), y).name == "vector"


def test_the_chosen_is_fitted_to_every_row_and_the_candidates_to_none() -> None:
    z, y = batch()
    best = select_calibrator(CANDIDATES, 3 * z, y)
    assert torch.equal(best.calibrator(z), TemperatureScaling().fit(3 * z, y)(z))
    assert best.calibrator.rows_used == 600
    assert not any(candidate.fitted for candidate in CANDIDATES.values())


def test_each_row_is_judged_by_what_has_not_seen_it() -> None:
    z, y = batch()
    scores = select_calibrator({"isotonic": IsotonicCalibration()}, z, y, folds=3).scores
    fitted_to_all = nll(IsotonicCalibration().fit(z, y)(z), y).mean()
    assert scores["isotonic"] > scores["identity"] > fitted_to_all


def test_scores_are_mean_nlls() -> None:
    z, y = batch()
    weights = torch.arange(600.0)
    scores = select_calibrator({}, z, y, weights=weights).scores
    assert scores["identity"] == pytest.approx(((weights @ nll(z, y)) / weights.sum()).item(), rel=1e-5)


def test_each_fold_has_every_class_and_ignored_rows_are_in_none() -> None:
    fits: list[list[int]] = []

    @final
    class Recorder(Calibrator):
        def forward(self, logits: Tensor) -> Tensor:
            return logits

        def _fit(self, rows: CalibrationRows) -> None:
            fits.append(rows.targets.bincount().tolist())

    y = torch.tensor([0] * 20 + [1] * 5 + [-100] * 9)
    select_calibrator({"recorder": Recorder()}, torch.zeros(34, 2), y)
    assert fits == [[16, 4]] * 5


def test_a_score_that_is_no_number_or_infinite_never_wins() -> None:
    z, y = batch(60)
    scores = select_calibrator({"certain": IsotonicCalibration(floor=0.0)}, z, y)
    assert scores.scores["certain"] == torch.inf
    assert scores.name == "identity"


def test_folds_and_names_have_to_make_sense() -> None:
    z, y = batch(6)
    for folds in (1, 7):
        with pytest.raises(ValueError, match=f"folds must be 2 or more and at most the rows, 6, got {folds}"):
            select_calibrator({}, z, y, folds=folds)
    with pytest.raises(ValueError, match="'identity' is that of logits as they are"):
        select_calibrator({"identity": TemperatureScaling()}, z, y)
    assert select_calibrator({"identity": Identity()}, z, y, folds=2).name == "identity"
