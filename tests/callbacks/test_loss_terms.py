import pytest
import torch
from torch import nn

from logitwatch.callbacks.loss_terms import ELEMENTS, loss_terms, our_loss
from logitwatch.capture.observation import Observation
from logitwatch.capture.split_rows import whole_observation
from logitwatch.functional.row_statistics import row_statistics
from logitwatch.losses import (
    BinaryCrossEntropyWithLogits,
    CrossEntropyLoss,
    DistillationLoss,
    LogitLoss,
    LogitPenalty,
    ZLoss,
)


class Theirs(LogitLoss):
    def forward(self, logits, targets=None):
        return torch.rand(()) * logits.mean()


def test_a_sum_of_ours_is_found_by_its_name():
    module = nn.ModuleDict({"criterion": CrossEntropyLoss() + 2 * ZLoss(1.0)})
    assert our_loss(module, "criterion") is module["criterion"]


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        Theirs(),
        CrossEntropyLoss() + Theirs(),
        DistillationLoss(),
        BinaryCrossEntropyWithLogits(),
    ],
    ids=["of torch", "of others", "of both", "with a teacher", "of decisions"],
)
def test_what_is_not_ours_alone_or_needs_more_is_not_called_once_more(loss):
    assert our_loss(nn.ModuleDict({"criterion": loss}), "criterion") is None


@pytest.mark.parametrize("source", ["cross_entropy", "training", "criterion.terms.9", "observe"])
def test_a_source_that_is_no_submodule_names_no_loss(source):
    assert our_loss(nn.ModuleDict({"criterion": CrossEntropyLoss()}), source) is None


def test_rows_that_do_not_count_have_no_gradient_and_do_not_spoil_the_mean():
    generator = torch.Generator().manual_seed(0)
    z, y = torch.randn(20, 4, generator=generator), torch.randint(4, (20,), generator=generator)
    loss = CrossEntropyLoss() + LogitPenalty(0.1)
    good = loss_terms(loss, Observation.of(z[:15], y[:15]))
    y[15], y[16:] = -100, 7
    all_rows = loss_terms(loss, Observation.of(z, y))
    for name, (norm, cosine) in good.items():
        # float32 sums
        torch.testing.assert_close(all_rows[name][0], norm, rtol=1e-5, atol=0)
        torch.testing.assert_close(all_rows[name][1], cosine, rtol=1e-5, atol=1e-6)


def test_of_many_rows_the_first_are_taken():
    z = torch.zeros(10, ELEMENTS)
    z[:, 0] = 2.0
    y = torch.ones(10, dtype=torch.long)
    z[8:] = torch.nan  # never looked at
    ((norm, _),) = loss_terms(CrossEntropyLoss(), Observation.of(z, y)).values()
    assert norm.isfinite()


def test_without_targets_a_penalty_has_a_norm_and_no_cosine():
    ((norm, cosine),) = loss_terms(ZLoss(0.5), Observation.of(torch.zeros(3, 2))).values()
    assert norm.item() == pytest.approx(0.5 * 2 * 0.6931 * 0.5**0.5, rel=1e-3)
    assert cosine.isnan()


def test_rows_without_logits_have_no_terms():
    z, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
    rows = whole_observation(row_statistics(z, y), y, y >= 0, 2)
    assert loss_terms(CrossEntropyLoss(), rows) == {}
