import pytest
import torch
from torch import Tensor

from logitwatch.losses.rows import RowLoss, odds_loss


class Certainty(RowLoss):
    """1 - p of the target: simple enough to be added up by hand."""

    term_name = "certainty"

    def of_rows(self, logits: Tensor, targets: Tensor, *, weight: Tensor | None, dim: int) -> Tensor:
        return odds_loss(torch.sigmoid, logits, targets, weight=weight, dim=dim)


LOGITS = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])


@pytest.mark.parametrize(("reduction", "wanted"), [("sum", 2.5), ("mean", 2.5 / 5), ("none", [1.0, 0.0, 1.5])])
def test_a_row_is_weighed_by_its_class_and_the_mean_divides_by_the_weights(reduction: str, wanted: object) -> None:
    loss = Certainty([2.0, 3.0], 7, reduction)
    assert loss(LOGITS, torch.tensor([0, 7, 1])).tolist() == wanted


@pytest.mark.parametrize(("reduction", "wanted"), [("sum", 3.5), ("mean", 3.5 / 3), ("none", [1.0, 1.5, 1.0])])
def test_soft_rows_are_weighed_class_by_class_and_the_mean_divides_by_their_number(
    reduction: str, wanted: object
) -> None:
    soft = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert Certainty([2.0, 3.0], 7, reduction)(LOGITS, soft).tolist() == pytest.approx(wanted)


def test_the_odds_are_taken_against_each_class_with_target_mass() -> None:
    z = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, q = z.softmax(1), z.flip(1).softmax(1)
    weight = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    expected = (q * (1 - p) * weight.view(3, 1)).sum(1)
    torch.testing.assert_close(odds_loss(torch.sigmoid, z, q, weight=weight, dim=1), expected)
    torch.testing.assert_close(odds_loss(torch.sigmoid, z, q, weight=weight, dim=-2), expected)
    index = torch.tensor([[0, 1], [2, 2], [1, 0], [1, 1]])
    hard = weight[index] * (1 - p.gather(1, index.unsqueeze(1)).squeeze(1))
    torch.testing.assert_close(odds_loss(torch.sigmoid, z, index, weight=weight, dim=1), hard)


def test_the_weight_is_in_the_state_and_what_decides_is_shown() -> None:
    loss = Certainty([2.0, 3.0], 7, "sum")
    assert loss.state_dict()["weight"].tolist() == [2.0, 3.0]
    assert repr(loss) == "Certainty(ignore_index=7, reduction='sum')"
    assert not Certainty().state_dict()


def test_weights_are_lifted_with_the_logits() -> None:
    loss = Certainty(torch.tensor([0.1, 0.7]).half())
    assert loss(LOGITS.bfloat16(), torch.tensor([0, 1, 1])).dtype == torch.float32
    assert loss(LOGITS.double(), torch.tensor([0, 1, 1])).dtype == torch.float64
