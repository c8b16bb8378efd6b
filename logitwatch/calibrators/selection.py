"""Which calibrator to use: the one that predicts rows it was not fitted to best."""

import copy
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.cross_fitting import cross_fitted, stratified_folds
from logitwatch.calibrators.identity import Identity
from logitwatch.calibrators.inputs import CalibrationRows, calibration_rows
from logitwatch.functional.scores import nll

__all__ = ["Selection", "select_calibrator"]


class Selection(NamedTuple):
    """What `select_calibrator` chose.

    Attributes:
        name: Of the best candidate.
        calibrator: It, fitted to all rows.
        scores: Cross-fitted mean NLL of every candidate, nats.
    """

    name: str
    calibrator: Calibrator
    scores: dict[str, float]


def select_calibrator(
    candidates: Mapping[str, Calibrator],
    logits: Tensor,
    targets: Tensor,
    *,
    folds: int = 5,
    weights: Tensor | None = None,
    ignore_index: int = -100,
) -> Selection:
    r"""The candidate of smallest cross-fitted NLL, fitted to all rows; ``"identity"`` is always among them.

    .. math:: \frac{1}{\sum_i w_i} \sum_f \sum_{i \in f} w_i\, \mathrm{nll}(g_{-f}(z_i), y_i)

    with :math:`g_{-f}` fitted to the rows outside fold :math:`f`, so that each row is judged by a map that has not
    seen it. Each class is dealt out evenly over the folds, in an order drawn with a private generator. On a tie the
    first wins, and the identity is the first. No candidate is changed: copies are fitted. Warnings are those of the
    last fit.

    Args:
        candidates: Calibrators by name.
        logits: ``[..., classes]``, see `Calibrator.fit`.
        targets: Class indices, shaped as ``logits`` without classes.
        folds: How many parts, 2 or more.
        weights: See `Calibrator.fit`.
        ignore_index: See `Calibrator.fit`.

    Returns:
        The name, the fitted calibrator and the score of every candidate.

    Raises:
        TypeError: As `Calibrator.fit`.
        ValueError: As `Calibrator.fit`; and if ``folds`` is below 2, or more than there are rows; if a candidate
            other than an `Identity` is called ``"identity"``; or if the rows outside a fold are all of one class.

    Examples:
        >>> import torch
        >>> from logitwatch.calibrators import TemperatureScaling
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = torch.randn(500, 3, generator=generator)
        >>> targets = logits.softmax(-1).multinomial(1, generator=generator).squeeze(1)
        >>> best = select_calibrator({"temperature": TemperatureScaling()}, 3 * logits, targets)
        >>> best.name, {name: round(score, 1) for name, score in best.scores.items()}
        ('temperature', {'identity': 1.2, 'temperature': 0.8})
        >>> select_calibrator({"temperature": TemperatureScaling()}, logits, targets).name
        'identity'
    """
    rows = calibration_rows(logits, targets, weights, ignore_index)
    fold = stratified_folds(rows.targets, folds)
    if not isinstance(candidates.get("identity", Identity()), Identity):
        raise ValueError("the name 'identity' is that of logits as they are; give the candidate another")
    everyone = {"identity": Identity(), **candidates}
    scores = {name: _cross_fitted_nll(candidate, rows, fold) for name, candidate in everyone.items()}
    best = min(scores, key=lambda name: (scores[name] != scores[name], scores[name]))
    chosen = copy.deepcopy(everyone[best])
    return Selection(best, chosen.fit(logits, targets, weights=weights, ignore_index=ignore_index), scores)


def _cross_fitted_nll(candidate: Calibrator, rows: CalibrationRows, fold: Tensor) -> float:
    """Mean NLL of the rows, each under the candidate fitted to the other folds."""

    def fit(kept: Tensor) -> Calibrator:
        part = rows.logits[kept], rows.targets[kept]
        return copy.deepcopy(candidate).fit(*part, weights=rows.weights[kept])

    costs = nll(cross_fitted(fit, rows.logits, fold), rows.targets).to(rows.weights)
    return (rows.weights @ costs).item() / rows.weights.sum().item()
