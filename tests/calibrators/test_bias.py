import pytest
import torch
from torch import Tensor

from logitwatch.calibrators.bias import BiasCorrection

TRAIN, TARGET = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.3, 0.6])


def shifted(rows: int = 20_000) -> tuple[Tensor, Tensor]:
    """Logits that are calibrated for TRAIN, of rows drawn from TARGET: Gaussian features about one centre a class."""
    generator = torch.Generator().manual_seed(0)
    y = TARGET.multinomial(rows, replacement=True, generator=generator)
    x = 1.5 * torch.eye(3)[y] + torch.randn(rows, 3, generator=generator)
    return 1.5 * x + TRAIN.log(), y


def test_from_priors_is_the_rule_of_bayes() -> None:
    correction = BiasCorrection.from_priors(TRAIN * 70, TARGET)
    p = torch.tensor([[0.2, 0.5, 0.3]])
    wanted = p * TARGET / TRAIN
    torch.testing.assert_close(correction(p.log()).softmax(-1), wanted / wanted.sum())
    assert correction.bias.sum().item() == pytest.approx(0, abs=1e-6)
    assert correction.rows_used == 0


def test_a_known_shift_is_found_with_labels_and_without() -> None:
    z, y = shifted()
    wanted = BiasCorrection.from_priors(TRAIN, TARGET).bias
    # Two standard errors of a log-frequency near 0.1, of 20,000 rows, and what telling classes apart costs on top.
    torch.testing.assert_close(BiasCorrection().fit(z, y).bias, wanted, rtol=0, atol=0.08)
    torch.testing.assert_close(BiasCorrection().fit_unlabelled(z, TRAIN).bias, wanted, rtol=0, atol=0.08)


def test_without_labels_it_is_the_prior_of_largest_likelihood() -> None:
    z, _ = shifted(2000)
    bias = BiasCorrection().double().fit_unlabelled(z.double(), TRAIN.double()).bias
    log_ratio = z.double().log_softmax(-1) - TRAIN.double().log()

    def likelihood(step: Tensor) -> float:
        log_prior = (bias + TRAIN.double().log() + step).log_softmax(-1)
        return (log_ratio + log_prior).logsumexp(-1).sum().item()

    best = likelihood(torch.zeros(3))
    for k in range(3):
        for size in (-1e-2, 1e-2):
            assert likelihood(size * torch.eye(3)[k]) < best


def test_without_labels_rows_that_are_not_finite_are_left_out() -> None:
    z, _ = shifted(500)
    bad = torch.cat((z, torch.tensor([[torch.nan, 0.0, 0.0], [torch.inf, 0.0, 0.0], [-torch.inf] * 3])))
    correction = BiasCorrection().fit_unlabelled(bad.view(1, 503, 3), TRAIN)
    assert torch.equal(correction.bias, BiasCorrection().fit_unlabelled(z, TRAIN).bias)
    assert (correction.rows_used.item(), correction.rows_left_out.item()) == (500, 3)


def test_a_class_that_has_gone_is_held_at_half_a_row() -> None:
    z = torch.tensor([[8.0, 0.0], [9.0, 0.0]]).repeat(50, 1)
    prior = torch.tensor([0.5, 0.5])
    target = (BiasCorrection().fit_unlabelled(z, prior).bias + prior.log()).softmax(-1)
    assert target[1].item() == pytest.approx(0.005, rel=0.01)
    labelled = BiasCorrection().fit(torch.zeros(100, 3), torch.arange(100) % 2)
    assert labelled(torch.zeros(3)).softmax(-1)[2].item() == pytest.approx(0.5 / 100 / 3, rel=1e-4)


def test_a_search_for_a_prior_that_does_not_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logitwatch.calibrators.bias.ITERATIONS", 2)
    with pytest.warns(UserWarning, match="the prior has not settled in 2 iterations"):
        BiasCorrection().fit_unlabelled(shifted(500)[0], TRAIN)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (torch.tensor([0.5, 0.0]), r"train_prior must be \[classes\], two or more, positive and finite, got \[0.5, 0"),
        (torch.tensor([0.5, torch.nan]), "positive and finite"),
        (torch.tensor([1.0]), "two or more"),
        (torch.ones(2, 2), r"must be \[classes\]"),
    ],
)
def test_a_prior_is_a_positive_number_for_each_class(prior: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BiasCorrection.from_priors(prior, prior)


def test_priors_and_logits_have_to_fit() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(3,\) and \(2,\)"):
        BiasCorrection.from_priors(TRAIN, torch.ones(2))
    with pytest.raises(ValueError, match=r"\[\.\.\., 3\] as train_prior, got \(5, 2\)"):
        BiasCorrection().fit_unlabelled(torch.zeros(5, 2), TRAIN)
    with pytest.raises(ValueError, match="expected rows to fit, got 2, none of them finite"):
        BiasCorrection().fit_unlabelled(torch.full((2, 3), torch.nan), TRAIN)
