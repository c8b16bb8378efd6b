import pytest
import torch

from logitwatch.losses import CrossEntropyLoss, LabelSmoothingCrossEntropy


def test_it_is_cross_entropy_with_smoothing() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, weight = torch.randn(6, 5, generator=generator), [1.0, 2.0, 3.0, 4.0, 5.0]
    targets = torch.tensor([0, 1, 2, 3, 4, 9])
    for reduction in ("mean", "sum", "none"):
        ours = LabelSmoothingCrossEntropy(0.2, weight, 9, reduction)
        theirs = CrossEntropyLoss(weight, 9, reduction, 0.2)
        assert ours.ignore_index == 9
        assert torch.equal(ours(logits, targets), theirs(logits, targets))


def test_smoothing_is_on_by_default() -> None:
    assert LabelSmoothingCrossEntropy()(torch.tensor([[100.0, 0.0]]), torch.tensor([0])) == pytest.approx(5.0)


def test_a_smoothing_that_is_no_fraction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got 1.5"):
        LabelSmoothingCrossEntropy(1.5)


def test_the_weight_is_in_the_state() -> None:
    assert list(LabelSmoothingCrossEntropy(weight=[1.0, 2.0]).state_dict()) == ["cross_entropy.weight"]


def test_it_lends_the_rows_of_a_large_vocabulary() -> None:
    loss = LabelSmoothingCrossEntropy()
    loss.lent = {}
    loss(torch.zeros(2, 20_000), torch.tensor([1, 2]))
    assert set(loss.lent["rows"]) == {"max_logit", "log_partition", "entropy", "nll"}
    assert list(loss.lent["terms"]) == ["label_smoothing_cross_entropy"]
