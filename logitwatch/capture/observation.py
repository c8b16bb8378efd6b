"""One call of a criterion, as rows of logits with the quantities every monitor reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from logitwatch.capture.heads import LinearCall
from logitwatch.capture.inputs import class_axis, mask_rows, plain, real_numbers, target_rows
from logitwatch.capture.sharding import local_rows
from logitwatch.functional.numerics import chunk_elements, maybe_absent, upcast
from logitwatch.functional.row_statistics import RowStatistics, binary_row_statistics, row_statistics

__all__ = ["Observation"]

# Elements copied at a time where classes are not the last axis; a few caches' worth, so that little is allocated.
PIECE_ELEMENTS = 1_048_576
# Rows whose logits are made where a loss never built them.
SHOWN_ROWS = 64
# Probabilities in bfloat16 add up to 1 within its spacing, 0.0078.
TOTAL_TOLERANCE = 0.01


class Observation:
    """Logits and targets of one call of a criterion, detached, classes last, with shared per-row quantities.

    Quantities are computed on first use, in one chunked pass, and kept as long as the observation. Nothing the size of
    the logits is allocated and nothing outlives the step.

    Attributes:
        targets: Class indices ``[rows]``, probabilities ``[rows, classes]``, or None. Independent yes-or-no logits have
            one row an element and probabilities of yes ``[rows]``.
        valid: Rows that count, ``[rows]`` bool: the target is not ``ignore_index`` and the mask is True.
        stage: ``train``, ``val``, ``test`` or ``predict``.
        source: Name of the criterion, function or module the call was seen at.
        step: Optimizer steps taken when it was seen.
        leading_shape: Shape of the logits without the class axis, for positions in a sequence or an image.
        binary: Whether each logit is a decision of its own.
        known: Per-row quantities the loss had computed already, by name, over all rows.
        head: What is most likely the call of the linear layer they came from, where one is overheard; of a sample None.

    Examples:
        >>> seen = Observation.of(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, -100]))
        >>> seen.num_rows, seen.num_classes, seen.valid.tolist()
        (2, 2, [True, False])
        >>> seen.entropy
        tensor([0.3653, 0.6931])
    """

    def __init__(
        self,
        block: Tensor,
        targets: Tensor | None,
        valid: Tensor,
        *,
        binary: bool = False,
        leading_shape: tuple[int, ...] = (),
        stage: str = "train",
        source: str = "observe",
        step: int = 0,
        known: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
        logits_of: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._block = block  # [outer, classes, inner], a view of what the criterion was given
        self.targets = targets
        self.valid = valid
        self.binary = binary
        self.leading_shape = leading_shape
        self.stage = stage
        self.source = source
        self.step = step
        self.known = dict(known or {})
        self.head: LinearCall | None = None
        self._generator = generator
        self._logits_of = logits_of
        self._samples: dict[int, Observation] = {}

    @classmethod
    def of(
        cls,
        logits: Tensor,
        targets: Tensor | None = None,
        *,
        class_dim: int = -1,
        ignore_index: int | None = -100,
        mask: Tensor | None = None,
        binary: bool = False,
        stage: str = "train",
        source: str = "observe",
        step: int = 0,
        known: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Observation:
        """An observation of logits with their class axis anywhere.

        Args:
            logits: Real tensor; classes on ``class_dim``, or for ``binary`` one decision an element.
            targets: Indices shaped as ``logits`` without the class axis or flat, or probabilities shaped as ``logits``.
            class_dim: The class axis.
            ignore_index: Target value of rows that do not count; None where there is no such value.
            mask: True where a row counts, shaped as ``logits`` without the class axis.
            binary: Independent yes-or-no logits, as in binary cross-entropy.
            stage, source, step, known: See the attributes.
            generator: Private source of the random rows of `sample`.

        Raises:
            ValueError: If the shapes of logits, targets and mask do not belong together, or classes are spread over
                ranks.
            TypeError: If one of them is not a dense tensor, or of a type that cannot be one.
        """
        logits, targets, mask = local_rows(logits, targets, mask, class_dim=class_dim, binary=binary)
        z = real_numbers(plain(logits, "logits"), "logits")
        axis = None if binary else class_axis(z.shape, class_dim)
        if axis is None:
            leading, block = z.shape, z.reshape(-1, 1, 1)
        else:
            leading = z.shape[:axis] + z.shape[axis + 1 :]
            block = z.reshape(prod(z.shape[:axis]), z.shape[axis], prod(z.shape[axis + 1 :]))
        y = None if targets is None else target_rows(targets, z, axis)
        valid = torch.ones(prod(leading), dtype=torch.bool, device=z.device)
        if y is not None and y.ndim == 1 and not binary and ignore_index is not None:
            valid = y != ignore_index
        if mask is not None:
            valid = valid & mask_rows(mask, z, leading)
        return cls(
            block,
            y,
            valid,
            binary=binary,
            leading_shape=tuple(leading),
            stage=stage,
            source=source,
            step=step,
            known=known,
            generator=generator,
        )

    @property
    def num_rows(self) -> int:
        """How many rows there are, ignored ones included."""
        return self._block.shape[0] * self._block.shape[2]

    @property
    def num_classes(self) -> int:
        """Width of a row; 2 for independent yes-or-no logits."""
        return 2 if self.binary else self._block.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The type the logits came in."""
        return self._block.dtype

    @property
    def logits(self) -> Tensor:
        """``[rows, classes]``, detached: a view where classes are the last axis, a copy elsewhere."""
        return self._rows(0, self._block.shape[0])

    @property
    def unbuilt(self) -> bool:
        """Whether every quantity of every row is known and only the logits are not there; those of `shown` may be."""
        return self._logits_of is not None or self._block.device != self.valid.device

    @property
    def shown(self) -> Observation | None:
        """Rows whose logits can be read: these, or where they were never built a sample of 64, or none."""
        if not self.unbuilt:
            return self
        return None if self._logits_of is None else self.sample(SHOWN_ROWS)

    @cached_property
    def extremes(self) -> tuple[Tensor, Tensor]:
        """Largest and smallest present logit of every row, ``[rows]`` each, float32 or wider, exact.

        The largest is NaN for a row with a NaN, ``inf`` for one with ``+inf`` and ``-inf`` for one without any present
        class; in such a row the smallest is not to be used.
        """
        if self.binary:
            z = upcast(self._block.reshape(-1))
            return z, z
        high = self.known.get("max_logit")
        high = upcast(self._block.amax(1)).reshape(-1) if high is None else high
        low = upcast(self._block.amin(1)).reshape(-1)
        if maybe_absent(low):
            step = max(1, chunk_elements(low.device) // self._block.shape[1])
            chunks = (chunk for piece in self._pieces() for chunk in torch.split(piece, step))
            parts = [z.masked_fill(z == -torch.inf, torch.inf).amin(-1) for z in chunks]
            low = upcast(torch.cat(parts)) if parts else low
        return high, low

    @cached_property
    def statistics(self) -> RowStatistics:
        """Every per-row quantity; see `RowStatistics`. A row with a bad target is a row without one."""
        rows = self._row_statistics()
        # Indices that name no class are left out where the rows are computed.
        if self.targets is None or (self.targets.ndim == 1 and not self.binary):
            return rows
        bad = self.bad_target
        return rows._replace(
            nll=rows.nll.masked_fill(bad, torch.nan),
            target_confidence=rows.target_confidence.masked_fill(bad, torch.nan),
            target_square=rows.target_square.masked_fill(bad, torch.nan),
            correct=rows.correct & ~bad,
        )

    @property
    def max_logit(self) -> Tensor:
        """Largest logit of each row; see `extremes`."""
        return self.extremes[0]

    @property
    def log_partition(self) -> Tensor:
        """Log of the softmax normaliser of each row, nats."""
        return self._quantity("log_partition")

    @property
    def entropy(self) -> Tensor:
        """Entropy of the prediction of each row, nats."""
        return self._quantity("entropy")

    @property
    def confidence(self) -> Tensor:
        """Probability of the predicted class of each row."""
        return self._quantity("confidence")

    @property
    def margin(self) -> Tensor:
        """Gap between the two largest logits of each row, nats."""
        return self._quantity("margin")

    @property
    def nll(self) -> Tensor:
        """Negative log-likelihood of the target of each row, nats; NaN without a target."""
        return self._quantity("nll")

    @property
    def correct(self) -> Tensor:
        """Whether the first largest logit of each row is the target."""
        return self._quantity("correct")

    @cached_property
    def bad_target(self) -> Tensor:
        """Rows whose target is not one, ``[rows]`` bool; ignored rows are not among them.

        It is a class that does not exist, probabilities that do not add up to 1, or for yes-or-no logits a number
        outside ``[0, 1]``.
        """
        y = self.targets
        if y is None:
            return torch.zeros_like(self.valid)
        if self.binary:
            good = (y >= 0) & (y <= 1)
        elif y.ndim == 2:
            good = (y.sum(-1) - 1).abs() <= TOTAL_TOLERANCE
        else:
            good = (y >= 0) & (y < self.num_classes)
        return self.valid & ~good

    def sample(self, rows: int) -> Observation:
        """A random subset of at most ``rows`` rows without repetition, valid rows first; the same one when asked again.

        Drawn with the private generator, so the run's own random numbers are untouched, and without looking at a value.
        """
        if rows >= self.num_rows and self._logits_of is None:
            return self
        rows = min(rows, self.num_rows)
        if rows not in self._samples:
            self._samples[rows] = self._take(self._random_rows(rows))
        return self._samples[rows]

    def spread(self, rows: int) -> Observation:
        """At most ``rows`` rows evenly spaced over all of them; nothing is drawn for it."""
        n = self.num_rows
        if rows >= n:
            return self
        return self._take(torch.arange(rows, device=self._block.device) * n // rows)

    def _row_statistics(self) -> RowStatistics:
        targets = self.targets
        if self.binary:
            return binary_row_statistics(self._block.reshape(-1), targets)
        parts, start = [], 0
        for z in self._pieces():
            stop = start + len(z)
            parts.append(row_statistics(z, None if targets is None else targets[start:stop]))
            start = stop
        if not parts:
            return row_statistics(self.logits, targets)
        return parts[0] if len(parts) == 1 else RowStatistics(*map(torch.cat, zip(*parts, strict=True)))

    def _quantity(self, name: str) -> Tensor:
        known = self.known.get(name)
        computed: Tensor = getattr(self.statistics, name) if known is None else known
        return computed

    def _random_rows(self, rows: int) -> Tensor:
        device = self.valid.device
        generator = self._generator if self._generator is not None and self._generator.device == device else None
        if generator is None:
            generator = torch.Generator(device).manual_seed(0)
        keys = torch.rand(self.num_rows, generator=generator, device=device)
        return (keys + self.valid).topk(rows, sorted=False).indices

    def _take(self, index: Tensor) -> Observation:
        inner = self._block.shape[2]
        if self._logits_of is not None:
            block = self._logits_of(index).unsqueeze(-1)
        elif inner == 1:
            block = self._block.index_select(0, index)
        else:
            block = self._block[index // inner, :, index % inner].unsqueeze(-1)
        taken = Observation(
            block,
            None if self.targets is None else self.targets[index],
            self.valid[index],
            binary=self.binary,
            leading_shape=(len(index),),
            stage=self.stage,
            source=self.source,
            step=self.step,
            known={name: values[index] for name, values in self.known.items()},
            generator=self._generator,
        )
        if self.unbuilt:
            taken.__dict__["statistics"] = RowStatistics(*(values[index] for values in self.statistics))
        return taken

    def _rows(self, start: int, stop: int) -> Tensor:
        """Rows of the outer positions ``[start, stop)``, classes last."""
        return self._block[start:stop].movedim(1, -1).reshape(-1, self._block.shape[1])

    def _pieces(self) -> Iterator[Tensor]:
        """The rows in order: one view where classes are last, else copies of about `PIECE_ELEMENTS`, one at a time."""
        outer, classes, inner = self._block.shape
        step = outer if inner == 1 else max(1, PIECE_ELEMENTS // max(1, classes * inner))
        return (self._rows(i, i + step) for i in range(0, outer if inner else 0, max(1, step)))
