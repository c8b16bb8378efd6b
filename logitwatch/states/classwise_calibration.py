"""Calibration class by class: which class is promised too often, and which is wrong when it is chosen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitwatch.functional.numerics import accumulator_dtype, centred_exp, chunk_elements, upcast
from logitwatch.functional.rows import flat_rows
from logitwatch.states.protocol import merge_fields, summed

__all__ = ["ClasswiseCalibration"]

# Six numbers of eight bytes a cell: the state stays under 1 MiB.
MOST_CELLS = 2**20 // 48


@dataclass(frozen=True)
class ClasswiseCalibration:
    r"""Counts, hits and summed probability in equal-width bins, for each class and for each predicted class.

    For the probability :math:`p_k` of class ``k`` in *every* row against :math:`1[y = k]` (class-wise), and for the
    confidence of the rows that *predict* ``k`` against being right (top-label-conditional). Bins are ``[lo, hi)``, the
    last closed, with edges ``i / num_bins``.

    The state is ``48 * num_classes * num_bins`` bytes and stays under 1 MiB: 15 bins for up to 1456 classes, fewer bins
    for more, down to one for 21845; beyond, and for larger tables, it refuses. A vocabulary is better looked at as a
    whole, by `CalibrationSketch`.

    Rows seen are ``count + nonfinite + ignored + bad_target``; a row is counted under the first of non-finite, ignored
    and bad target that holds. Read-outs are float64, and NaN before any row.

    References:
        Kull et al., "Beyond Temperature Scaling", 2019.
        Gupta & Ramdas, "Top-label Calibration and Multiclass-to-binary Reductions", 2022.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]).log_softmax(-1)
        >>> seen = ClasswiseCalibration.of(logits, torch.tensor([0, 2]))
        >>> seen.class_gaps().mul(1000).round().tolist()  # class 1 is promised too often, class 2 too seldom
        [-53.0, 447.0, -393.0]
        >>> seen.top_label_gaps().mul(1000).round().tolist()  # choosing class 0 was right; nobody chose class 2
        [-213.0, 787.0, nan]
    """

    counts: Tensor = summed()  # int64 [classes, bins]
    hits: Tensor = summed()  # int64 [classes, bins], rows of this class
    confidences: Tensor = summed()  # float64 [classes, bins]
    top_counts: Tensor = summed()  # int64 [classes, bins], of rows that predict the class
    top_hits: Tensor = summed()  # int64 [classes, bins]
    top_confidences: Tensor = summed()  # float64 [classes, bins]
    nonfinite: Tensor = summed()  # int64, rows
    ignored: Tensor = summed()  # int64, finite rows
    bad_target: Tensor = summed()  # int64, finite rows whose target names no class

    @classmethod
    def empty(
        cls, num_classes: int = 2, num_bins: int = 15, *, device: torch.device | str = "cpu"
    ) -> ClasswiseCalibration:
        """No rows seen.

        Args:
            num_classes: Number of classes, two or more.
            num_bins: Number of bins on ``[0, 1]``.
            device: Where the state is to be.

        Raises:
            ValueError: If either is too small, or the state would be larger than 1 MiB.
        """
        if num_classes < 2 or num_bins < 1:
            raise ValueError(f"expected two classes and one bin or more, got {num_classes} classes and {num_bins} bins")
        if num_classes * num_bins > MOST_CELLS:
            most = MOST_CELLS // num_classes
            advice = f"at most {most} bins" if most else f"at most {MOST_CELLS} classes"
            raise ValueError(f"{num_classes} classes in {num_bins} bins would need more than 1 MiB; expected {advice}")
        cells = torch.zeros(num_classes, num_bins, dtype=torch.int64, device=device)
        sums, none = cells.to(accumulator_dtype(cells.device)), cells.sum()
        return cls(cells, cells, sums, cells, cells, sums, none, none, none)

    @classmethod
    def of(
        cls, logits: Tensor, targets: Tensor, *, num_bins: int = 15, ignore_index: int = -100
    ) -> ClasswiseCalibration:
        """Tables of a batch of logits.

        Args:
            logits: ``[..., classes]``, two classes or more, any real type.
            targets: Class indices ``[...]``, or probabilities ``[..., classes]``, of which the largest is the label.
            num_bins: As for `empty`.
            ignore_index: Rows with this class index are counted as ignored and otherwise left out.

        Raises:
            ValueError: If the shapes are wrong, or the state would be larger than 1 MiB.
        """
        rows = flat_rows(logits, targets, ignore_index=ignore_index)
        labels, classes = rows.targets, rows.logits.shape[1]
        if rows.mask is None:
            # The index after the last class is that of no class.
            labels = labels.argmax(-1).masked_fill_(labels.isnan().any(-1), classes)
        mask = torch.ones_like(labels, dtype=torch.bool) if rows.mask is None else rows.mask
        seen = cls.empty(classes, num_bins, device=logits.device)
        step = max(1, chunk_elements(logits.device) // classes)
        for i in range(0, len(labels), step):
            part = slice(i, i + step)
            seen = seen.merge(_chunk(rows.logits[part], labels[part], mask[part], num_bins))
        return seen

    def merge(self, other: ClasswiseCalibration) -> ClasswiseCalibration:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def count(self) -> Tensor:
        """Number of rows the read-outs are about, int64."""
        return self.counts[0].sum()

    def class_errors(self) -> Tensor:
        r"""Expected calibration error of each class's probability over all rows, ``[classes]``, a fraction.

        .. math:: \frac{1}{N} \sum_b \Bigl| \sum_{i \in b} p_{ik} - 1[y_i = k] \Bigr|
        """
        return (self.confidences - self.hits).abs().sum(1) / self.count

    def classwise_ece(self, *, weighted: bool = False) -> Tensor:
        """Mean of `class_errors` over classes: the classwise ECE of Kull et al., a fraction.

        Args:
            weighted: Weigh each class by the share of rows that are of it, instead of all alike. With many classes the
                plain mean is small whatever the model does, since most probabilities are near 0 and rightly so.
        """
        errors = self.class_errors()
        return (errors * self.prevalence()).sum() if weighted else errors.mean()

    def top_label_errors(self) -> Tensor:
        """Expected calibration error of the rows that predict each class, ``[classes]``; NaN where none does."""
        return (self.top_confidences - self.top_hits).abs().sum(1) / self.top_counts.sum(1)

    def top_label_ece(self) -> Tensor:
        """Top-label-conditional calibration error: `top_label_errors` weighed by how often each class is predicted.

        At least the ECE of the top label at the same bins, where classes that are too sure make up for those that are
        not sure enough.
        """
        return (self.top_confidences - self.top_hits).abs().sum() / self.count

    def class_gaps(self) -> Tensor:
        """Mean probability of each class less its share of rows, ``[classes]``: positive where promised too often."""
        return (self.confidences - self.hits).sum(1) / self.count

    def top_label_gaps(self) -> Tensor:
        """Mean confidence less accuracy of rows that predict each class, ``[classes]``: positive if overconfident."""
        return (self.top_confidences - self.top_hits).sum(1) / self.top_counts.sum(1)

    def prevalence(self) -> Tensor:
        """Share of rows that are of each class, ``[classes]``."""
        return self.hits.sum(1).to(self.confidences.dtype) / self.count


def _chunk(logits: Tensor, labels: Tensor, mask: Tensor, num_bins: int) -> ClasswiseCalibration:
    """The state of a chunk ``[rows, classes]``."""
    _, e, s = centred_exp(upcast(logits).contiguous())
    p = e / s.unsqueeze(-1)
    classes = p.shape[1]
    finite = ~s.isnan()
    known = (labels >= 0) & (labels < classes)
    counted = (finite & mask & known).unsqueeze(-1)
    # Cells of all probabilities; rows that do not count share a cell behind the last.
    base = torch.arange(0, classes * num_bins, num_bins, device=p.device)
    cells = (_bins(p, num_bins) + base).masked_fill_(~counted, classes * num_bins)
    label = torch.where(known, labels, 0).long().unsqueeze(-1)
    top, predicted = p.max(-1, keepdim=True)
    right = predicted == label

    def table(index: Tensor, values: Tensor) -> Tensor:
        sums = torch.zeros(classes * num_bins + 1, dtype=values.dtype, device=p.device)
        return sums.scatter_add_(0, index.reshape(-1), values.reshape(-1))[:-1].view(classes, num_bins)

    of_top, wide = cells.gather(1, predicted), accumulator_dtype(p.device)
    return ClasswiseCalibration(
        counts=table(cells, torch.ones_like(cells)),
        hits=table(cells.gather(1, label), torch.ones_like(label)),
        confidences=table(cells, p.to(wide)),
        top_counts=table(of_top, torch.ones_like(of_top)),
        top_hits=table(of_top, right.long()),
        top_confidences=table(of_top, top.to(wide)),
        nonfinite=(~finite).sum(),
        ignored=(finite & ~mask).sum(),
        bad_target=(finite & mask & ~known).sum(),
    )


def _bins(p: Tensor, num_bins: int) -> Tensor:
    """Bin of each probability, int64; of NaN any bin."""
    wide = accumulator_dtype(p.device)
    if p.dtype == wide:
        # The product could round across an edge, so the edges are searched.
        inner = torch.arange(1, num_bins, dtype=wide, device=p.device) / num_bins
        return torch.bucketize(p, inner, right=True)
    return (p.to(wide) * num_bins).long().clamp_(0, num_bins - 1)
