import pytest
import torch

from logitwatch.states.dropout_summary import DropoutSummary


def logits(passes=5, rows=40, classes=4, seed=0):
    return 2 * torch.randn(passes, rows, classes, generator=torch.Generator().manual_seed(seed))


def entropy(p):
    return -(p * p.log()).sum(-1)


def test_means_are_those_of_the_formulas_in_float64():
    z = logits()
    p = z.double().softmax(-1)
    predictive, expected = entropy(p.mean(0)).mean(), entropy(p).mean()
    said = {name: value.item() for name, value in DropoutSummary.of(z).means().items()}
    assert said == pytest.approx(
        {
            "predictive_entropy": predictive.item(),
            "expected_entropy": expected.item(),
            "mutual_information": (predictive - expected).item(),
            "logit_variance": z.double().var(0).mean().item(),
        },
        rel=1e-5,  # float32 rows
    )


def test_a_single_class_is_a_decision():
    z = logits(classes=1)
    p = torch.cat((-z, z), -1).double().div(2).softmax(-1)
    said = DropoutSummary.of(z).means()
    assert said["predictive_entropy"].item() == pytest.approx(entropy(p.mean(0)).mean().item(), rel=1e-5)
    assert said["logit_variance"].item() == pytest.approx(z.double().var(0).mean().item(), rel=1e-5)


def test_passes_that_agree_have_no_variance_and_no_information():
    said = DropoutSummary.of(logits(passes=1).expand(3, -1, -1)).means()
    assert said["logit_variance"].item() == said["mutual_information"].item() == 0.0


def test_an_absent_class_is_left_out_of_the_variance():
    z = logits()
    expected = z[..., 1:].double().var(0).mean()
    z[..., 0] = -torch.inf
    assert DropoutSummary.of(z).means()["logit_variance"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_row_that_is_not_finite_in_one_pass_is_counted_and_left_out():
    z = logits()
    expected = DropoutSummary.of(z[:, 3:]).means()
    z[1, 0, 2], z[0, 1, 0], z[4, 2] = torch.nan, torch.inf, -torch.inf
    seen = DropoutSummary.of(z)
    assert (seen.seen.item(), seen.nonfinite.item()) == (40, 3)
    for name, value in seen.means().items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-12), name  # one sum in float64


def test_half_precision_is_lifted():
    z = logits().bfloat16()
    assert torch.equal(DropoutSummary.of(z).variances.cells, DropoutSummary.of(z.float()).variances.cells)
