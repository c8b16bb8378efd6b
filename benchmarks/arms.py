"""Who watches: nobody, this suite, and three ways people do it by hand. Each is a list of callbacks."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

import logitwatch

__all__ = ["ARMS", "BASELINE"]

BASELINE = "none"
CALIBRATION_BINS = 15
HISTOGRAM_BINS = 64


class CriterionCallback(Callback, ABC):
    """Sees the logits and targets of every step through a hook on the criterion, the cheapest place there is."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.trainer = trainer
        self._handle = pl_module.criterion.register_forward_hook(self._hook)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._handle.remove()

    @abstractmethod
    def watch(self, logits: Tensor, targets: Tensor) -> None:
        """One step: logits ``[rows, classes]``, targets ``[rows]``."""

    def log_is_due(self) -> bool:
        """Whether Lightning itself would log after this step."""
        return (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0

    def _hook(self, module: Any, args: tuple[Tensor, Tensor], output: Tensor) -> None:
        with torch.no_grad():
            self.watch(args[0].detach(), args[1])


class Naive(CriterionCallback):
    """The suite's statistics as one writes them down: plain torch, every row, every step."""

    NAMES = ("min", "max", "mean", "std", "norm", "log_partition", "entropy", "confidence", "margin", "accuracy")

    def __init__(self) -> None:
        self.steps = 0
        self.totals = torch.zeros(len(self.NAMES))
        self.bins = torch.zeros(3, CALIBRATION_BINS)
        self.histogram = torch.zeros(HISTOGRAM_BINS)

    def watch(self, logits: Tensor, targets: Tensor) -> None:
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        top = logits.topk(2, dim=-1)
        confidence = p.amax(-1)
        correct = (top.indices[:, 0] == targets).float()
        quantities = (
            *(logits.min(), logits.max(), logits.mean(), logits.std(), logits.norm(dim=-1).mean()),
            *(logits.logsumexp(-1).mean(), -(p * log_p).sum(-1).mean(), confidence.mean()),
            *((top.values[:, 0] - top.values[:, 1]).mean(), correct.mean()),
        )
        self.steps += 1
        self.totals += torch.stack(quantities)
        cells = (confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
        for row, weights in zip(self.bins, (torch.ones_like(confidence), confidence, correct), strict=True):
            row += torch.bincount(cells, weights, CALIBRATION_BINS)
        low, high = logits.min().item(), logits.max().item()
        self.histogram = logits.histc(HISTOGRAM_BINS, low, high)
        if self.log_is_due():
            self._log(low, high)

    def _log(self, low: float, high: float) -> None:
        counts, confidence, correct = self.bins
        values = dict(zip(self.NAMES, (self.totals / self.steps).tolist(), strict=True))
        values["ece"] = ((confidence - correct).abs().sum() / counts.sum()).item()
        step = self.trainer.global_step
        self.trainer.logger.log_metrics({f"naive/{name}": value for name, value in values.items()}, step)
        edges = torch.linspace(low, high, HISTOGRAM_BINS + 1)[1:]
        middles = edges - (high - low) / (2 * HISTOGRAM_BINS)
        self.trainer.logger.experiment.add_histogram_raw(
            "naive/histogram",
            min=low,
            max=high,
            num=int(self.histogram.sum()),
            sum=float(self.histogram @ middles),
            sum_squares=float(self.histogram @ middles**2),
            bucket_limits=edges.tolist(),
            bucket_counts=self.histogram.tolist(),
            global_step=step,
        )
        self.steps = 0
        self.totals.zero_()
        self.bins.zero_()


class Torchmetrics(CriterionCallback):
    """Calibration error, accuracy and mean entropy, updated every step, computed and reset when logged.

    `MulticlassAccuracy` counts in a table of ``num_classes ** 2`` at each update; that is what it costs its users.
    """

    def __init__(self, num_classes: int) -> None:
        self.calibration_error = MulticlassCalibrationError(num_classes, n_bins=CALIBRATION_BINS)
        self.accuracy = MulticlassAccuracy(num_classes)
        self.entropy = MeanMetric()

    def watch(self, logits: Tensor, targets: Tensor) -> None:
        self.calibration_error.update(logits, targets)
        self.accuracy.update(logits, targets)
        log_p = logits.log_softmax(-1)
        self.entropy.update(-(log_p.exp() * log_p).sum(-1))
        if self.log_is_due():
            metrics = {"ece": self.calibration_error, "accuracy": self.accuracy, "entropy": self.entropy}
            values = {f"torchmetrics/{name}": metric.compute().item() for name, metric in metrics.items()}
            self.trainer.logger.log_metrics(values, self.trainer.global_step)
            for metric in metrics.values():
                metric.reset()


class AddHistogram(CriterionCallback):
    """TensorBoard's own histogram of the logits, every step."""

    def watch(self, logits: Tensor, targets: Tensor) -> None:
        self.trainer.logger.experiment.add_histogram("logits", logits, self.trainer.global_step)


ARMS: dict[str, Callable[[int], list[Callback]]] = {
    BASELINE: lambda num_classes: [],
    "control": lambda num_classes: [],
    "suite": lambda num_classes: [*logitwatch.watch()],
    "naive": lambda num_classes: [Naive()],
    "torchmetrics": lambda num_classes: [Torchmetrics(num_classes)],
    "add_histogram": lambda num_classes: [AddHistogram()],
}
"""Callbacks of each arm, given the number of classes. The control watches nothing either: its ratio is the noise."""
