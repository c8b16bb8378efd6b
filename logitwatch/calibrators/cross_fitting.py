"""Every row calibrated by a map that was fitted without it."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.inputs import CalibrationWarning

__all__ = ["cross_fitted", "stratified_folds"]


def cross_fitted(fit: Callable[[Tensor], Calibrator], logits: Tensor, fold: Tensor) -> Tensor:
    """Calibrated logits of each row under the map that was fitted to the other folds. See `stratified_folds`.

    Args:
        fit: Gives the calibrator fitted to the rows of a mask, ``[rows]`` bool; what it warns of is passed over.
        logits: ``[rows, classes]``.
        fold: The fold of each row, ``[rows]`` int64, from 0 on.

    Returns:
        ``[rows, classes]``, float32 or wider.

    Examples:
        >>> from logitwatch.calibrators.temperature import TemperatureScaling
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(200, 3, generator=generator)
        >>> y = z.softmax(-1).multinomial(1, generator=generator).squeeze(1)
        >>> fold = stratified_folds(y, 5)
        >>> z = cross_fitted(lambda rows: TemperatureScaling().fit(4 * z[rows], y[rows]), 4 * z, fold)
        >>> z.shape
        torch.Size([200, 3])
    """
    parts, places = [], []
    for f in range(int(fold.max()) + 1):
        inside = fold == f
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)
            calibrator = fit(~inside)
        with torch.no_grad():
            parts.append(calibrator(logits[inside]))
        places.append(inside.nonzero().squeeze(1))
    return torch.cat(parts)[torch.cat(places).argsort()]


def stratified_folds(targets: Tensor, folds: int) -> Tensor:
    """The fold of each row: each class dealt out evenly, in an order drawn with a private generator.

    Args:
        targets: ``[rows]`` class indices.
        folds: How many.

    Returns:
        ``[rows]`` int64 in ``[0, folds)``.

    Raises:
        ValueError: If ``folds`` is below 2, or more than there are rows.

    Examples:
        >>> fold = stratified_folds(torch.tensor([0, 0, 1, 1]), 2)
        >>> sorted(fold[:2].tolist()), sorted(fold[2:].tolist())
        ([0, 1], [0, 1])
    """
    if not 2 <= folds <= len(targets):
        raise ValueError(f"folds must be 2 or more and at most the rows, {len(targets)}, got {folds}")
    shuffled = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0)).to(targets.device)
    by_class = shuffled[targets[shuffled].argsort(stable=True)]
    fold = torch.empty_like(targets)
    fold[by_class] = torch.arange(len(targets), device=targets.device) % folds
    return fold
