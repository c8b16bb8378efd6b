"""The best temperature of any number of predictions, from sums at 28 fixed temperatures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from logitwatch.functional.interpolation import hermite_polynomial, polynomial_value
from logitwatch.functional.numerics import accumulator_dtype, chunk_elements, upcast
from logitwatch.functional.row_statistics import target_logit
from logitwatch.functional.rows import flat_rows
from logitwatch.states.protocol import merge_fields, summed, to_device

__all__ = ["TemperatureFit", "TemperatureGrid", "Verdict"]

Verdict = Literal["ok", "empty", "impossible", "separable", "uninformative", "outside"]

# Inverse temperatures 2 ** -16, 2 ** -15.5, ..., 2 ** 13.5. Logits that want T between 0.18 and 3.2 may so be scaled by
# 1e-3 to 1e4, with room for the curve around the optimum.
LOWEST, PER_OCTAVE, NODES = -16, 2, 60
UNIT = -LOWEST * PER_OCTAVE  # the node of T = 1
# exp is taken at every sixth octave; squaring gives the others, with rounding that grows to 32 times that of exp.
OCTAVES = 6
STEP = OCTAVES * PER_OCTAVE  # nodes that are made together
# A class this improbable beside the likeliest is left out: its square would be a subnormal number, and those are slow.
NEGLIGIBLE = 1e-18
# Centred logits below this are negligible at every node. Absent classes are put here, where a square is a number.
FLOOR = (math.log(NEGLIGIBLE) - 1) * 2.0**-LOWEST
# Nodes that the curve around the optimum goes through.
WINDOW = 6
# A slope at T = inf within this many standard errors of 0 is what random labels give, in 999 of 1000 samples.
STANDARD_ERRORS = 3.0


class TemperatureFit(NamedTuple):
    """What `TemperatureGrid.fit` reads from the sums."""

    verdict: Verdict
    temperature: float  # NaN unless the verdict is "ok"
    standard_error: float  # of the temperature; NaN unless the verdict is "ok"
    nll: float  # smallest NLL at any temperature, nats


@dataclass(frozen=True)
class TemperatureGrid:
    r"""NLL, its first two derivatives by the inverse temperature and their scatter, at 60 temperatures: 2.4 KB.

    With :math:`c = z - \max z` and :math:`\langle\cdot\rangle_\beta` a mean under :math:`\mathrm{softmax}(\beta z)`,

    .. math:: \ell(\beta) = \log\textstyle\sum_k e^{\beta c_k} - \beta c_y, \qquad
        \ell' = \langle c \rangle_\beta - c_y, \qquad \ell'' = \langle c^2 \rangle_\beta - \langle c \rangle_\beta^2

    summed over rows at :math:`\beta = 0` and :math:`2^{-16}, 2^{-15.5}, \dots, 2^{13.5}`. The sum is convex in
    :math:`\beta`, so the sign of its slope brackets the optimum between two nodes. A polynomial in :math:`\log\beta`
    through value, slope and curvature of the six nodes around has the root, for :math:`2^{-12.5} \le T \le 2^{15}`: to
    a relative error below 5e-6 for logits as networks give them, and below 1e-4 where 1000 classes make all rows alike
    (a row's nearest singularity is :math:`\arctan(\pi / \log C)` off the real axis of :math:`\log\beta`, and rounding
    that is the same in every row does not average out). No logits are kept.

    Rows seen are ``count + nonfinite + ignored + bad_target``; a row is counted under the first of non-finite, ignored
    and bad target that holds. Read-outs wait for the device, solve on the CPU, and are float64 on the device.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", 2017.
        Berta et al., "Rethinking Early Stopping: Refine, Then Calibrate", 2025.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0]]).expand(40, 2)
        >>> seen = TemperatureGrid.of(logits, torch.tensor([0, 0, 0, 1]).repeat(10))  # 3 of 4 are right
        >>> round(seen.temperature().item(), 5)  # 2 / log 3
        1.82048
        >>> round(seen.nll_at_optimum().item(), 6), round(seen.nll().item(), 6)  # entropy of 3/4 and 1/4
        (0.562335, 0.626928)
        >>> sure = TemperatureGrid.of(logits, torch.zeros(40, dtype=torch.int64))
        >>> sure.verdict(), sure.temperature().item()
        ('separable', nan)
    """

    counts: Tensor = summed()  # int64 [61], rows summed; first at beta = 0, then from the lowest node to the highest
    nlls: Tensor = summed()  # float64 [61], nats
    slopes: Tensor = summed()  # float64 [61], derivative of the NLL by beta
    square_slopes: Tensor = summed()  # float64 [61], sum over rows of squared derivatives
    curvatures: Tensor = summed()  # float64 [61], second derivative
    shortfall: Tensor = summed()  # float64, largest logit less that of the target: the slope at beta = inf
    nonfinite: Tensor = summed()  # int64, rows
    ignored: Tensor = summed()  # int64, finite rows
    bad_target: Tensor = summed()  # int64, finite rows whose target names no class

    @classmethod
    def empty(cls, *, device: torch.device | str = "cpu") -> TemperatureGrid:
        """See `State.empty`."""
        nodes = torch.zeros(1 + NODES, dtype=accumulator_dtype(torch.device(device)), device=device)
        none = torch.zeros((), dtype=torch.int64, device=device)
        return cls(nodes.long(), nodes, nodes, nodes, nodes, nodes.sum(), none, none, none)

    @classmethod
    def of(
        cls,
        logits: Tensor,
        targets: Tensor,
        *,
        ignore_index: int = -100,
        span: tuple[float, float] | None = None,
    ) -> TemperatureGrid:
        """Sums over a batch of logits.

        Args:
            logits: ``[..., classes]``, two classes or more, any real type.
            targets: Class indices ``[...]``, or probabilities ``[..., classes]``.
            ignore_index: Rows with this class index are counted as ignored and otherwise left out.
            span: Least and greatest temperature to look at, for speed; all where None. All nodes cost some 100 times
                a cross-entropy on a CPU, a fifth of them is enough for ``(1.0, 8.0)``. States of different spans merge;
                the optimum is then looked for where all rows were.

        Raises:
            ValueError: If there are fewer than two classes, ``targets`` has neither shape, or ``span`` is not two
                positive numbers in order.
        """
        rows = flat_rows(logits, targets, ignore_index=ignore_index)
        return cls.of_rows(*rows, span=span)

    @classmethod
    def of_rows(
        cls, logits: Tensor, targets: Tensor, mask: Tensor | None = None, *, span: tuple[float, float] | None = None
    ) -> TemperatureGrid:
        """Sums over flat rows.

        Args:
            logits: ``[rows, classes]``, any real type; a row with NaN, ``+inf`` or no class counts as non-finite.
            targets: Class indices ``[rows]`` or probabilities ``[rows, classes]``; an index that is no class gives a
                row with a bad target.
            mask: True for rows to count, ``[rows]``; the others are counted as ignored.
            span: As for `of`.
        """
        logits, targets = logits.detach(), targets.detach()
        mask = torch.ones(len(logits), dtype=torch.bool, device=logits.device) if mask is None else mask
        nodes = _nodes(span)
        chains = len(nodes) // OCTAVES
        step = max(1, chunk_elements(logits.device) // (chains * max(1, logits.shape[1])))
        seen = cls.empty(device=logits.device)
        for i in range(0, len(logits), step):
            rows = slice(i, i + step)
            seen = seen.merge(_chunk(upcast(logits[rows]).contiguous(), targets[rows], mask[rows], nodes))
        return seen

    def merge(self, other: TemperatureGrid) -> TemperatureGrid:
        """See `State.merge`."""
        return merge_fields(self, other)

    @property
    def count(self) -> Tensor:
        """Number of rows the read-outs are about, int64."""
        return self.counts[0]

    def fit(self) -> TemperatureFit:
        """All read-outs of the optimum at once, as numbers of Python. See the read-outs."""
        return _fit(to_device(self, "cpu"))

    def verdict(self) -> Verdict:
        """Whether there is a best temperature, and if not, why.

        - ``"ok"``: there is one, on the grid.
        - ``"empty"``: no row was counted.
        - ``"impossible"``: a target was an absent class, so the NLL is infinite at any temperature.
        - ``"separable"``: every target has the largest logit of its row, so the NLL falls for ever as T falls to 0.
        - ``"uninformative"``: at infinite T the NLL does not fall by more than 3 standard errors of its slope when T
          becomes finite. So it is for random labels, for which the best T is infinite, or negative, or noise.
        - ``"outside"``: the best T is below ``2 ** -12.5``, above ``2 ** 15``, or outside a narrower span.
        """
        return self.fit().verdict

    def temperature(self) -> Tensor:
        """Temperature with the smallest NLL; ``logits / T`` is calibrated best. NaN unless `verdict` is ``"ok"``."""
        return self._tensor(self.fit().temperature)

    def standard_error(self) -> Tensor:
        r"""Standard error of `temperature`. NaN unless `verdict` is ``"ok"``.

        .. math:: \mathrm{se}(T) = T \, \frac{\sqrt{\sum_i (\beta \ell_i')^2}}{\sum_i \beta^2 \ell_i''}

        The sandwich, which holds too where no temperature makes the model right; the inverse of the Fisher information
        holds only where one does. Rows are taken as independent. The sum of squares is interpolated between nodes,
        which is good to a hundredth or two.

        References:
            White, "Maximum Likelihood Estimation of Misspecified Models", 1982.
        """
        return self._tensor(self.fit().standard_error)

    def nll(self) -> Tensor:
        """Mean negative log-likelihood of the logits as they are, nats."""
        return self.nlls[UNIT + 1] / self.count

    def nll_at_optimum(self) -> Tensor:
        """Refinement: the smallest mean NLL at any temperature, nats. At most `nll`; NaN only before any row.

        Also where `verdict` gives no temperature: the limit at T = 0 for separable rows, at most that at infinite T for
        uninformative ones, and the smallest on the grid for an optimum outside.
        """
        return self._tensor(self.fit().nll)

    def calibration_loss(self) -> Tensor:
        """The part of `nll` that a temperature would save: ``nll() - nll_at_optimum()``, nats, never negative."""
        return self.nll() - self.nll_at_optimum()

    def _tensor(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=self.nlls.dtype, device=self.nlls.device)


def _nodes(span: tuple[float, float] | None) -> range:
    """Indices of the nodes to sum at for temperatures in ``span``: whole groups, with T = 1 among them."""
    if span is None:
        return range(NODES)
    if not 0 < span[0] <= span[1] < math.inf:
        raise ValueError(f"span must be two positive temperatures, the least first, got {span}")
    ends = [PER_OCTAVE * (-math.log2(temperature) - LOWEST) for temperature in reversed(span)]
    low = max(0, min(UNIT, math.floor(ends[0]) - WINDOW // 2 + 1))
    high = min(NODES - 1, max(UNIT, math.ceil(ends[1]) + WINDOW // 2 - 1))
    return range(low // STEP * STEP, (high // STEP + 1) * STEP)


def _chunk(z: Tensor, targets: Tensor, mask: Tensor, nodes: range) -> TemperatureGrid:
    """The state of a chunk ``[rows, classes]`` of float32 or float64."""
    wide = accumulator_dtype(z.device)
    top = z.amax(-1)
    c = z - top.unsqueeze(-1)
    c_target = target_logit(c, targets)[0].to(wide).unsqueeze(-1)
    beta = _betas(z.device)
    s, s1, s2 = _moments(c.clamp_(min=FLOOR), beta[1 + nodes.start : 1 + nodes.stop].to(z.dtype)).to(wide)
    mean = s1 / s
    finite = top.isfinite()
    known = ~c_target.squeeze(-1).isnan()
    counted = finite & mask & known

    def total(rows: Tensor) -> Tensor:
        sums = torch.where(counted.unsqueeze(-1), rows, 0).sum(0)
        unseen = sums.new_zeros(NODES)
        return torch.cat((sums[:1], unseen[: nodes.start], sums[1:], unseen[nodes.stop :]))

    slope = mean - c_target
    at = torch.cat((beta[:1], beta[1 + nodes.start : 1 + nodes.stop]))
    return TemperatureGrid(
        counts=total(torch.ones_like(mean, dtype=torch.int64)),
        # The product is 0 at beta = 0 also for a target that is an absent class.
        nlls=total(s.log() - torch.where(at == 0, 0.0, at * c_target)),
        slopes=total(slope),
        square_slopes=total(slope.square()),
        curvatures=total((s2 / s - mean.square()).clamp_(min=0)),
        shortfall=torch.where(counted, -c_target.squeeze(-1), 0.0).sum(),
        nonfinite=(~finite).sum(),
        ignored=(finite & ~mask).sum(),
        bad_target=(finite & mask & ~known).sum(),
    )


def _moments(c: Tensor, betas: Tensor) -> Tensor:
    r""":math:`\sum e^{\beta c}`, :math:`\sum c e^{\beta c}`, :math:`\sum c^2 e^{\beta c}`: ``[3, rows, 1 + betas]``."""
    c = c.unsqueeze(1)
    # Also a finite logit that masks a class counts as absent, if it is low enough.
    e = (c > FLOOR).to(c.dtype)
    at_zero = _weighted_sums(e, c, torch.empty_like(e))
    starts = betas.view(-1, OCTAVES, PER_OCTAVE)[:, 0].reshape(-1, 1)
    e = (c * starts).clamp_(min=FLOOR * 2.0**LOWEST).exp_()
    product, sums = torch.empty_like(e), []
    for octave in range(OCTAVES):
        if octave:
            e.mul_(e)
        sums.append(_weighted_sums(torch.threshold_(e, NEGLIGIBLE, 0.0), c, product))
    # Two chains start at neighbouring nodes and interleave.
    chains = torch.stack(sums, dim=-1).view(3, len(c), -1, PER_OCTAVE, OCTAVES)
    return torch.cat((at_zero, chains.transpose(-1, -2).reshape(3, len(c), -1)), dim=-1)


def _weighted_sums(e: Tensor, c: Tensor, product: Tensor) -> Tensor:
    """Sums over classes of ``e``, ``e c`` and ``e c c``, ``[3, rows, chains]``, for ``e [rows, chains, classes]``."""
    # Not by a matrix product, which torch may have been told to take in half precision.
    first = torch.mul(e, c, out=product).sum(-1)
    return torch.stack((e.sum(-1), first, product.mul_(c).sum(-1)))


def _betas(device: torch.device) -> Tensor:
    """The inverse temperatures, ``[1 + NODES]``."""
    nodes = torch.arange(-1, NODES, dtype=accumulator_dtype(device), device=device)
    return torch.where(nodes < 0, 0.0, (LOWEST + nodes / PER_OCTAVE).exp2())


def _fit(seen: TemperatureGrid) -> TemperatureFit:
    """The fit from sums on the CPU."""
    count = int(seen.count)
    if count == 0:
        return TemperatureFit("empty", math.nan, math.nan, math.nan)
    complete = seen.counts == count
    best = seen.nlls[complete].min().item() / count
    if not math.isfinite(seen.shortfall):
        return TemperatureFit("impossible", math.nan, math.nan, math.inf)
    if seen.shortfall == 0:
        return TemperatureFit("separable", math.nan, math.nan, best)
    uninformative = bool(seen.slopes[0] >= -STANDARD_ERRORS * seen.square_slopes[0].sqrt())
    inside = complete[1:].nonzero().flatten().tolist()
    below = inside[0] + int((seen.slopes[1:][complete[1:]] < 0).sum())  # nodes under the optimum
    first = below - WINDOW // 2
    if not inside[0] <= first <= inside[-1] + 1 - WINDOW:
        return TemperatureFit("uninformative" if uninformative else "outside", math.nan, math.nan, best)
    x, nll, variance = _minimum(seen, first)
    best = min(best, nll)
    if uninformative:
        return TemperatureFit("uninformative", math.nan, math.nan, best)
    temperature = 2.0 ** -(LOWEST + (first + x) / PER_OCTAVE)
    return TemperatureFit("ok", temperature, temperature * math.sqrt(variance), best)


def _minimum(seen: TemperatureGrid, first: int) -> tuple[float, float, float]:
    """Position of the optimum in nodes from ``first``, the mean NLL there, and the variance of its logarithm."""
    window = slice(1 + first, 1 + first + WINDOW)
    count, base = int(seen.count), seen.nlls[window].min()
    # The unit of length is the distance of two nodes in log beta.
    unit, beta = math.log(2) / PER_OCTAVE, _betas(seen.nlls.device)[window]
    slope = seen.slopes[window] * beta * unit
    curvature = slope * unit + seen.curvatures[window] * (beta * unit).square()
    curve = hermite_polynomial(torch.stack((seen.nlls[window] - base, slope, curvature)) / count)
    low = WINDOW / 2 - 1
    high = low + 1
    for _ in range(52):  # to rounding
        middle = (low + high) / 2
        if polynomial_value(curve, middle, 1, nodes=WINDOW) < 0:
            low = middle
        else:
            high = middle
    squares = hermite_polynomial(seen.square_slopes[window].unsqueeze(0) / count)
    scatter = max(0.0, polynomial_value(squares, low, nodes=WINDOW)) * (beta[0].item() * math.exp(unit * low)) ** 2
    bend = polynomial_value(curve, low, 2, nodes=WINDOW) / unit**2
    return low, base.item() / count + polynomial_value(curve, low, nodes=WINDOW), scatter / count / bend**2
