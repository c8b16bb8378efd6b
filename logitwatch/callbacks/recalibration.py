"""What a calibrator does to rows it has not seen, and the one fitted to all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.beta import BetaCalibration
from logitwatch.calibrators.bias import BiasCorrection
from logitwatch.calibrators.cross_fitting import cross_fitted, stratified_folds
from logitwatch.calibrators.histogram import HistogramBinning
from logitwatch.calibrators.identity import Identity
from logitwatch.calibrators.inputs import CalibrationWarning
from logitwatch.calibrators.isotonic import IsotonicCalibration
from logitwatch.calibrators.matrix import MatrixScaling
from logitwatch.calibrators.platt import PlattScaling
from logitwatch.calibrators.selection import select_calibrator
from logitwatch.calibrators.temperature import TemperatureScaling
from logitwatch.calibrators.vector import VectorScaling
from logitwatch.states.calibration_sketch import CalibrationSketch

__all__ = ["KINDS", "Recalibration", "carried", "recalibrated", "restored"]

_MADE: dict[str, Callable[[], Calibrator]] = {
    "beta": BetaCalibration,
    "bias": BiasCorrection,
    "histogram": HistogramBinning,
    "identity": Identity,
    "isotonic": IsotonicCalibration,
    "matrix": MatrixScaling,
    "platt": PlattScaling,
    "temperature": TemperatureScaling,
    "vector": VectorScaling,
}
# What "best" chooses from, beside none: those with few parameters, which do not need many rows.
_CANDIDATES = ("temperature", "vector", "bias", "beta")
KINDS = tuple(sorted({*_MADE, "best"} - {"identity"}))


class Recalibration(NamedTuple):
    """A calibrator fitted to all rows, and what those fitted to other rows do to each."""

    calibrator: Calibrator
    before: CalibrationSketch
    after: CalibrationSketch
    notes: list[str]  # what the fit warned of


def recalibrated(kind: str, logits: Tensor, targets: Tensor, *, folds: int = 5) -> Recalibration:
    """Fit a calibrator and judge it by cross-fitting, so that no row is judged by a map it was fitted to.

    Args:
        kind: One of `KINDS`; ``best`` chooses among temperature, vector, bias, beta and none, anew in each fold.
        logits: ``[rows, classes]``.
        targets: Class indices ``[rows]``.
        folds: How many parts.

    Raises:
        ValueError: If no calibrator can be fitted to the rows; see `Calibrator.fit`.

    Examples:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(500, 3, generator=generator)
        >>> y = z.softmax(-1).multinomial(1, generator=generator).squeeze(1)
        >>> done = recalibrated("temperature", 3 * z, y)
        >>> bool(done.after.nll() < done.before.nll()), bool(done.after.ece() < done.before.ece())
        (True, True)
    """

    def fitted(z: Tensor, y: Tensor) -> Calibrator:
        if kind != "best":
            return _MADE[kind]().fit(z, y)
        return select_calibrator({name: _MADE[name]() for name in _CANDIDATES}, z, y, folds=folds).calibrator

    fold = stratified_folds(targets, folds)
    mapped = cross_fitted(lambda kept: fitted(logits[kept], targets[kept]), logits, fold)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CalibrationWarning)
        calibrator = fitted(logits, targets)
    before, after = CalibrationSketch.of(logits, targets), CalibrationSketch.of(mapped, targets)
    return Recalibration(calibrator, before, after, [str(warning.message) for warning in caught])


def carried(calibrator: Calibrator) -> dict[str, Any]:
    """A calibrator as names, numbers and tensors, for a checkpoint.

    Examples:
        >>> carried(Identity())["kind"]
        'identity'
    """
    kind = next(name for name, made in _MADE.items() if made is type(calibrator))
    return {"kind": kind, "buffers": dict(calibrator.state_dict())}


def restored(saved: Mapping[str, Any]) -> Calibrator:
    """The calibrator that was `carried`.

    Examples:
        >>> restored(carried(Identity()))
        Identity()
    """
    calibrator = _MADE[saved["kind"]]()
    calibrator.load_state_dict(saved["buffers"])
    return calibrator
