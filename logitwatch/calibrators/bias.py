"""Bias correction: an offset for each class, for when the classes are more or less frequent than in training."""

import warnings
from typing import final

import torch
from torch import Tensor

from logitwatch.calibrators.base import Calibrator
from logitwatch.calibrators.inputs import CalibrationRows, CalibrationWarning, check_not_negative
from logitwatch.calibrators.softmax_fit import LinearModel, SoftmaxFit, minimum
from logitwatch.functional.numerics import accumulator_dtype, upcast

__all__ = ["BiasCorrection"]

ITERATIONS = 10_000


@final
class BiasCorrection(Calibrator):
    r"""Adds a bias to each class: the answer to a class prior that has shifted since training.

    .. math:: z' = z + b, \qquad b_k = \log \pi'_k - \log \pi_k

    with priors :math:`\pi` in training and :math:`\pi'` where the model is used. There are three ways to it:

    * `from_priors`, where both priors are known;
    * `fit`, from labelled rows: the bias of smallest NLL, at which the mean predicted probability of each class is its
      frequency. A convex problem, solved by Newton's method in float64, smoothed as `VectorScaling` is;
    * `fit_unlabelled`, from rows without labels and the training prior: the prior of largest likelihood.

    Accuracy may change; a constant added to each row changes nothing.

    Args:
        smoothing: How many rows' worth of target is spread over all classes, ``>= 0``.

    Attributes:
        bias: :math:`b`, ``[classes]``, of mean 0.

    Raises:
        ValueError: If ``smoothing`` is negative or not finite.

    References:
        Saerens et al., "Adjusting the Outputs of a Classifier to New a Priori Probabilities: A Simple Procedure", 2002.

    Examples:
        >>> import torch
        >>> correction = BiasCorrection.from_priors(torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1]))
        >>> correction(torch.tensor([[0.0, 0.0], [0.0, float("-inf")]])).softmax(-1)
        tensor([[0.9000, 0.1000],
                [1.0000, 0.0000]])
        >>> correction = BiasCorrection(smoothing=0.0).fit(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))
        >>> correction(torch.zeros(2)).softmax(-1)
        tensor([0.7500, 0.2500])
    """

    bias: Tensor

    def __init__(self, *, smoothing: float = 0.5) -> None:
        super().__init__()
        check_not_negative("smoothing", smoothing)
        self.smoothing = smoothing
        self.register_buffer("bias", torch.empty(0))

    @classmethod
    def from_priors(cls, train_prior: Tensor, target_prior: Tensor) -> "BiasCorrection":
        """The correction between two known priors.

        Args:
            train_prior: Class frequencies in training, ``[classes]``; counts do as well.
            target_prior: Class frequencies where the model is used, ``[classes]``.

        Raises:
            ValueError: If the shapes differ, or a frequency is not positive and finite.
        """
        train, target = _log_prior("train_prior", train_prior), _log_prior("target_prior", target_prior)
        if train.shape != target.shape:
            raise ValueError(f"priors must have one shape, got {tuple(train.shape)} and {tuple(target.shape)}")
        correction = cls()
        correction._learned(bias=_centred(target - train))
        return correction

    def fit_unlabelled(self, logits: Tensor, train_prior: Tensor) -> "BiasCorrection":
        r"""Learn the prior of unlabelled rows, by expectation and maximisation, and correct for it.

        .. math:: \pi'_k \leftarrow \frac1n \sum_i \frac{p_k(x_i)\, \pi'_k / \pi_k}{\sum_j p_j(x_i)\, \pi'_j / \pi_j}

        The logits have to be calibrated for the training prior; correct their temperature first. A class is held at
        half a row or more.

        Args:
            logits: ``[..., classes]``; a row with NaN or ``+inf``, or without a present class, is left out.
            train_prior: Class frequencies in training, ``[classes]``; counts do as well.

        Returns:
            The calibrator itself.

        Raises:
            ValueError: If shapes do not fit, a frequency is not positive and finite, or no row is left.
        """
        with torch.inference_mode(False), torch.no_grad():
            wide = accumulator_dtype(logits.device)
            log_train = _log_prior("train_prior", train_prior).to(logits.device, wide)
            if logits.ndim == 0 or logits.shape[-1:] != log_train.shape:
                raise ValueError(f"expected logits [..., {len(log_train)}] as train_prior, got {tuple(logits.shape)}")
            z = upcast(logits.detach()).reshape(-1, len(log_train)).to(wide)
            usable = z.amax(1).isfinite()
            if not usable.any():
                raise ValueError(f"expected rows to fit, got {len(z)}, none of them finite")
            target = _unlabelled_prior(z[usable].log_softmax(1), log_train)
            used = usable.sum()
            self._learned(
                bias=_centred(target - log_train),
                rows_used=used,
                rows_ignored=torch.zeros_like(used),
                rows_left_out=len(z) - used,
            )
        return self

    def forward(self, logits: Tensor) -> Tensor:
        """See `Calibrator.forward`."""
        z = self._lifted(logits, self.bias.shape[0])
        return z + self.bias.to(z.dtype)

    def _fit(self, rows: CalibrationRows) -> None:
        """See `Calibrator._fit`."""
        problem = SoftmaxFit.of(rows, self.smoothing)
        z = problem.logits * problem.spread + problem.centre

        model = LinearModel(
            outputs=lambda x: x.expand_as(z), adjoint=lambda g: g.sum(0), start=torch.zeros_like(z[0]), offset=z
        )
        point = minimum(problem, model, type(self).__name__)
        self._learned(bias=_centred(point))

    def extra_repr(self) -> str:
        return f"smoothing={self.smoothing}"


def _log_prior(name: str, prior: Tensor) -> Tensor:
    p = prior.detach().double()
    if p.ndim != 1 or len(p) < 2 or not bool(((p > 0) & p.isfinite()).all()):
        raise ValueError(f"{name} must be [classes], two or more, positive and finite, got {prior.tolist()}")
    return (p / p.sum()).log()


def _unlabelled_prior(log_p: Tensor, log_train: Tensor) -> Tensor:
    """Log of the prior of largest likelihood, from log-probabilities ``[rows, classes]`` under the training prior."""
    target = log_train
    for _ in range(ITERATIONS):
        posterior = (log_p + (target - log_train)).softmax(1)
        following = posterior.mean(0).clamp(min=0.5 / len(log_p))
        following = (following / following.sum()).log()
        if (following - target).abs().max() < 1e-10:
            return following
        target = following
    warnings.warn(f"the prior has not settled in {ITERATIONS} iterations", CalibrationWarning, 3)
    return target


def _centred(bias: Tensor) -> Tensor:
    """Only differences between classes count."""
    return bias - bias.mean()
