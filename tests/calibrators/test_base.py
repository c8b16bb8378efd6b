"""The base by a calibrator that adds one; what every calibrator does with it is in tests/contracts."""

from typing import final

import pytest
import torch
from torch import Tensor

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.inputs import CalibrationRows

LOGITS, TARGETS = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])


@final
class AddsMean(Calibrator):
    """Adds the mean logit of the rows it was fitted to."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(0))

    def forward(self, logits: Tensor) -> Tensor:
        return self._lifted(logits, 0) + self.mean

    def _fit(self, rows: CalibrationRows) -> None:
        self._learned(mean=rows.logits.mean(0).double())


def test_what_is_learned_takes_the_type_of_the_buffer() -> None:
    assert AddsMean().fit(LOGITS, TARGETS).mean.dtype == torch.float32
    assert AddsMean().double().fit(LOGITS, TARGETS).mean.dtype == torch.float64


def test_a_buffer_loads_whatever_its_size_is() -> None:
    fitted, fresh = AddsMean().fit(LOGITS, TARGETS), AddsMean()
    assert not fresh.fitted
    fresh.load_state_dict(fitted.state_dict())
    assert fresh.fitted
    assert torch.equal(fresh.mean, torch.tensor([0.5, 0.5]))


def test_a_state_that_lacks_something_is_refused() -> None:
    state = AddsMean().fit(LOGITS, TARGETS).state_dict()
    del state["has_fit"], state["mean"]
    fresh = AddsMean()
    with pytest.raises(RuntimeError, match=r'Missing key.*"has_fit", "mean"'):
        fresh.load_state_dict(state)
    assert not fresh.fitted


def test_it_counts_what_it_was_given() -> None:
    fitted = AddsMean().fit(torch.cat((LOGITS, LOGITS, LOGITS / 0)), torch.tensor([0, 1, -100, 0, 0, 1]))
    assert [fitted.rows_used.item(), fitted.rows_ignored.item(), fitted.rows_left_out.item()] == [3, 1, 2]
    assert fitted.rows_used.dtype == torch.int64


def test_a_scalar_is_no_row_of_logits() -> None:
    with pytest.raises(ValueError, match=r"expected logits \[\.\.\., classes\] as in the fit, got shape \(\)"):
        AddsMean().fit(LOGITS, TARGETS)(torch.tensor(1.0))


def test_a_calibrator_without_a_map_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Calibrator()  # type: ignore[abstract]
