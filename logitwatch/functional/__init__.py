"""Pure functions of logits: per example in, per example out, classes on ``dim``; torch and nothing else."""

from logitwatch.functional.attention import attention_entropy, attention_logit_bound, attention_logits
from logitwatch.functional.ensembles import average_logits, mixture_of_probabilities, mutual_information
from logitwatch.functional.positive_rows import PositiveRows, positive_rows
from logitwatch.functional.row_statistics import (
    CalibrationRows,
    RowStatistics,
    binary_row_statistics,
    calibration_rows,
    row_statistics,
)
from logitwatch.functional.scores import (
    brier_score,
    class_log_odds,
    log_odds,
    logit_margin,
    logit_norm,
    nll,
    scale_by_temperature,
    target_log_odds,
    target_rank,
)
from logitwatch.functional.uncertainty import confidence, effective_classes, energy, log_partition, softmax_entropy

__all__ = [
    "CalibrationRows",
    "PositiveRows",
    "RowStatistics",
    "attention_entropy",
    "attention_logit_bound",
    "attention_logits",
    "average_logits",
    "binary_row_statistics",
    "brier_score",
    "calibration_rows",
    "class_log_odds",
    "confidence",
    "effective_classes",
    "energy",
    "log_odds",
    "log_partition",
    "logit_margin",
    "logit_norm",
    "mixture_of_probabilities",
    "mutual_information",
    "nll",
    "positive_rows",
    "row_statistics",
    "scale_by_temperature",
    "softmax_entropy",
    "target_log_odds",
    "target_rank",
]
