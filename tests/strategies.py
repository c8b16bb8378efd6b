"""Data for the laws: batches of logits and targets that hypothesis can shrink, and every state with its filling."""

from collections.abc import Callable
from dataclasses import fields
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from logitwatch.functional.attention import head_statistics
from logitwatch.functional.linear_head import LinearRows
from logitwatch.functional.row_statistics import row_statistics
from logitwatch.states.attention_summary import AttentionSummary
from logitwatch.states.calibration_evidence import CalibrationEvidence
from logitwatch.states.calibration_sketch import CalibrationSketch
from logitwatch.states.calibration_summary import CalibrationSummary
from logitwatch.states.class_counts import ClassCounts
from logitwatch.states.class_gradient import ClassGradient
from logitwatch.states.classwise_calibration import ClasswiseCalibration
from logitwatch.states.confidence_cells import ConfidenceCells
from logitwatch.states.dropout_summary import DropoutSummary
from logitwatch.states.extrema import Extrema
from logitwatch.states.gradient_summary import GradientSummary
from logitwatch.states.head_scale import HeadScale
from logitwatch.states.logit_histogram import LogitHistogram
from logitwatch.states.logit_summary import LogitSummary
from logitwatch.states.look_series import LookSeries
from logitwatch.states.moments import Moments
from logitwatch.states.position_calibration import PositionCalibration
from logitwatch.states.protocol import State
from logitwatch.states.rank_cells import RankCells
from logitwatch.states.smoothing_grids import SmoothingGrids
from logitwatch.states.stability_summary import StabilitySummary
from logitwatch.states.temperature_grid import TemperatureGrid

CLASSES = 3
IGNORE_INDEX = -100
SPECIAL = (float("nan"), float("inf"), float("-inf"))


class StateKind(NamedTuple):
    """A state under test: nothing seen, and what logits ``[rows, CLASSES]`` with targets ``[rows]`` give."""

    empty: Callable[[], State]
    of: Callable[[Tensor, Tensor], State]


def counted_rows(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, correctness and whether to count, as `CalibrationSketch.of_rows` hands them to its views."""
    rows = row_statistics(z.detach(), y)
    left_out = rows.confidence.isnan() | rows.nll.isnan()
    return rows.confidence.masked_fill(left_out, 0.0), rows.correct & ~left_out, ~left_out


def gradient_summary(z: Tensor, y: Tensor) -> GradientSummary:
    """As `GradientMonitor` makes it."""
    rows = row_statistics(z.detach(), y)
    counted = rows.finite & (y != IGNORE_INDEX)
    return GradientSummary.of(rows.gradient_norm, rows.correct, counted, linear_rows_of(z), bound=0.1).with_classes(
        class_gradient(z, y)
    )


def class_gradient(z: Tensor, y: Tensor) -> ClassGradient:
    """As `GradientMonitor` makes it."""
    return ClassGradient.of(z, y, (y >= 0) & (y < z.shape[1]))


def attention_summary(z: Tensor, y: Tensor) -> AttentionSummary:
    """Rows of logits as the attention logits of one head; nothing heard where there are none."""
    heads = head_statistics(z.detach()[None, None])
    return AttentionSummary.of({1: heads})


def linear_rows_of(z: Tensor) -> LinearRows:
    """Rows of a head whose weight stays the same and whose logits are found."""
    norm = z.detach().double().norm(dim=-1)
    return LinearRows(norm.new_full((), 2.0), norm, norm / 3, norm.new_zeros(()))


def stability_summary(z: Tensor, y: Tensor) -> StabilitySummary:
    """As `StabilityGuard` makes it of one look; what it says of the type the logits came in is that of float32."""
    rows = row_statistics(z.detach(), y)
    return StabilitySummary.of(rows, y, y != IGNORE_INDEX, num_classes=CLASSES, dtype=torch.float32, step=3, place=3)


def class_counts(z: Tensor, y: Tensor) -> ClassCounts:
    """Of rows that have a maximum."""
    rows = row_statistics(z.detach(), y)
    return ClassCounts.of(rows.prediction, y, rows.finite, num_classes=CLASSES)


def look_series(z: Tensor, y: Tensor) -> LookSeries:
    """One look."""
    return LookSeries.of(row_statistics(z.detach(), y), y != IGNORE_INDEX, place=5)


# Every state is here; the laws and the contract run over this table.
STATE_KINDS = {
    "attention_summary": StateKind(AttentionSummary.empty, attention_summary),
    "calibration_evidence": StateKind(CalibrationEvidence.empty, CalibrationEvidence.of),
    "calibration_sketch": StateKind(CalibrationSketch.empty, CalibrationSketch.of),
    "classwise_calibration": StateKind(
        lambda: ClasswiseCalibration.empty(CLASSES), lambda z, y: ClasswiseCalibration.of(z, y)
    ),
    "class_counts": StateKind(ClassCounts.empty, class_counts),
    "confidence_cells": StateKind(ConfidenceCells.empty, lambda z, y: ConfidenceCells.of(*counted_rows(z, y))),
    "extrema": StateKind(Extrema.empty, lambda z, y: Extrema.of(z)),
    "class_gradient": StateKind(ClassGradient.empty, class_gradient),
    # Two passes, of which the second is less sure.
    "dropout_summary": StateKind(DropoutSummary.empty, lambda z, y: DropoutSummary.of(torch.stack((z, z / 2)))),
    "gradient_summary": StateKind(GradientSummary.empty, gradient_summary),
    "head_scale": StateKind(HeadScale.empty, lambda z, y: HeadScale.of(linear_rows_of(z))),
    "logit_histogram": StateKind(LogitHistogram.empty, lambda z, y: LogitHistogram.of(z)),
    "look_series": StateKind(LookSeries.empty, look_series),
    # Its rows come from an observation, which has let go of the graph.
    "logit_summary": StateKind(
        LogitSummary.empty,
        lambda z, y: LogitSummary.of(row_statistics(z.detach(), y), z.detach(), y != IGNORE_INDEX),
    ),
    "calibration_summary": StateKind(
        CalibrationSummary.empty,
        lambda z, y: CalibrationSummary(
            CalibrationSketch.of(z, y),
            TemperatureGrid.of(z, y),
            CalibrationEvidence.of(z, y),
            PositionCalibration.of(z.unsqueeze(-2), y.unsqueeze(-1)),
        ),
    ),
    "temperature_grid": StateKind(TemperatureGrid.empty, TemperatureGrid.of),
    "moments": StateKind(Moments.empty, lambda z, y: Moments.of(z, z.isfinite())),
    "moments_of_streams": StateKind(lambda: Moments.empty(CLASSES), lambda z, y: Moments.of(z, z.isfinite(), dim=0)),
    # Each row is a sequence of one token, so that rows may come in any order.
    "position_calibration": StateKind(
        PositionCalibration.empty, lambda z, y: PositionCalibration.of(z.unsqueeze(1), y.unsqueeze(1))
    ),
    "rank_cells": StateKind(RankCells.empty, lambda z, y: RankCells.of(*counted_rows(z, y))),
    "smoothing_grids": StateKind(SmoothingGrids.empty, lambda z, y: SmoothingGrids.of(*counted_rows(z, y))),
    "stability_summary": StateKind(StabilitySummary.empty, stability_summary),
}

finite_logits = st.floats(-100, 100, width=32)
any_logits = st.one_of(finite_logits, finite_logits, st.sampled_from(SPECIAL))


@st.composite
def logits(
    draw: st.DrawFn, *, min_rows: int = 0, max_rows: int = 6, elements: st.SearchStrategy[float] = any_logits
) -> Tensor:
    """float32 ``[rows, CLASSES]``."""
    rows = draw(st.integers(min_rows, max_rows))
    return torch.from_numpy(draw(npst.arrays("float32", (rows, CLASSES), elements=elements)))


@st.composite
def batches(
    draw: st.DrawFn, *, min_rows: int = 0, max_rows: int = 6, elements: st.SearchStrategy[float] = any_logits
) -> tuple[Tensor, Tensor]:
    """Logits with targets, some of them to be ignored and some that name no class."""
    z = draw(logits(min_rows=min_rows, max_rows=max_rows, elements=elements))
    label = st.one_of(st.integers(0, CLASSES - 1), st.sampled_from((IGNORE_INDEX, -1, CLASSES)))
    return z, torch.from_numpy(draw(npst.arrays("int64", len(z), elements=label)))


def eighths(largest: int) -> st.SearchStrategy[float]:
    """Multiples of 1/8 up to ``largest``: sums and differences of a few of them are exact in float32."""
    return st.integers(-8 * largest, 8 * largest).map(lambda n: n / 8)


def assert_same_state(a: State, b: State, *, scale: float = 1.0, tolerance: float = 1e-12) -> None:
    """Integers bit for bit; sums to ``tolerance`` of ``scale``, the size of what was summed."""
    assert type(a) is type(b)
    for field in fields(a):  # type: ignore[arg-type]
        x, y = getattr(a, field.name), getattr(b, field.name)
        if not isinstance(x, Tensor):
            assert_same_state(x, y, scale=scale, tolerance=tolerance)
            continue
        assert (x.dtype, x.shape) == (y.dtype, y.shape), field.name
        if x.is_floating_point() and field.metadata["reduce"] == "sum":
            torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
        else:
            torch.testing.assert_close(x, y, rtol=0, atol=0)


def size_of_sums(z: Tensor) -> float:
    """A bound on the terms of every sum that a state takes of these logits."""
    finite = z[z.isfinite()].double()
    return 1.0 + z.numel() + finite.square().sum().item()
