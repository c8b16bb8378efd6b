"""Losses of logits: ``nn.Module``s over functions, composable with ``+``; torch and nothing else."""

from logitwatch.losses.base import LogitLoss, LossSum
from logitwatch.losses.binary import BinaryCrossEntropyWithLogits, binary_cross_entropy
from logitwatch.losses.cross_entropy import CrossEntropyLoss, softmax_cross_entropy
from logitwatch.losses.distillation import DistillationLoss, distillation_loss
from logitwatch.losses.focal import (
    DualFocalLoss,
    FocalLoss,
    ScheduledFocalLoss,
    dual_focal_loss,
    focal_loss,
    scheduled_focal_loss,
)
from logitwatch.losses.gradients import GradientAccount, cross_entropy_gradient, gradient_accounts, logit_gradients
from logitwatch.losses.label_smoothing import LabelSmoothingCrossEntropy
from logitwatch.losses.linear_cross_entropy import LinearCrossEntropyLoss, linear_cross_entropy
from logitwatch.losses.logit_adjustment import (
    BalancedSoftmax,
    LogitAdjustedCrossEntropy,
    log_prior,
    logit_adjusted_cross_entropy,
)
from logitwatch.losses.logit_norm import LogitNormLoss, logit_norm_cross_entropy
from logitwatch.losses.margin import MarginLabelSmoothing, margin_label_smoothing
from logitwatch.losses.penalties import (
    ConfidencePenalty,
    LogitPenalty,
    MaxLogitPenalty,
    ZLoss,
    confidence_penalty,
    logit_penalty,
    max_logit_penalty,
    z_loss,
)
from logitwatch.losses.poly import PolyLoss, poly_loss
from logitwatch.losses.soft_cap import LogitSquashing, SoftCap, soft_cap, soft_cap_saturation
from logitwatch.losses.unlikelihood import UnlikelihoodLoss, unlikelihood_loss

__all__ = [
    "BalancedSoftmax",
    "BinaryCrossEntropyWithLogits",
    "ConfidencePenalty",
    "CrossEntropyLoss",
    "DistillationLoss",
    "DualFocalLoss",
    "FocalLoss",
    "GradientAccount",
    "LabelSmoothingCrossEntropy",
    "LinearCrossEntropyLoss",
    "LogitAdjustedCrossEntropy",
    "LogitLoss",
    "LogitNormLoss",
    "LogitPenalty",
    "LogitSquashing",
    "LossSum",
    "MarginLabelSmoothing",
    "MaxLogitPenalty",
    "PolyLoss",
    "ScheduledFocalLoss",
    "SoftCap",
    "UnlikelihoodLoss",
    "ZLoss",
    "binary_cross_entropy",
    "confidence_penalty",
    "cross_entropy_gradient",
    "distillation_loss",
    "dual_focal_loss",
    "focal_loss",
    "gradient_accounts",
    "linear_cross_entropy",
    "log_prior",
    "logit_adjusted_cross_entropy",
    "logit_gradients",
    "logit_norm_cross_entropy",
    "logit_penalty",
    "margin_label_smoothing",
    "max_logit_penalty",
    "poly_loss",
    "scheduled_focal_loss",
    "soft_cap",
    "soft_cap_saturation",
    "softmax_cross_entropy",
    "unlikelihood_loss",
    "z_loss",
]
