import pytest
import torch

from logitwatch.functional.rows import flat_rows


def test_leading_axes_become_rows_in_order() -> None:
    z = torch.arange(24.0).view(2, 3, 4)
    y = torch.tensor([[0, 1, 2], [3, -100, 0]])
    rows = flat_rows(z, y)
    assert torch.equal(rows.logits, z.view(6, 4))
    assert rows.targets.tolist() == [0, 1, 2, 3, -100, 0]
    assert rows.mask is not None
    assert rows.mask.tolist() == [True, True, True, True, False, True]


def test_any_index_can_be_the_ignored_one() -> None:
    mask = flat_rows(torch.zeros(3, 2), torch.tensor([0, 1, 0]), ignore_index=0).mask
    assert mask is not None
    assert mask.tolist() == [False, True, False]


def test_probabilities_keep_their_classes_and_have_no_mask() -> None:
    rows = flat_rows(torch.zeros(2, 3, 4), torch.full((2, 3, 4), 0.25))
    assert rows.targets.shape == (6, 4)
    assert rows.mask is None


def test_rows_keep_no_graph() -> None:
    z = torch.zeros(2, 3, requires_grad=True)
    q = torch.full((2, 3), 1 / 3, requires_grad=True)
    rows = flat_rows(z, q)
    assert not rows.logits.requires_grad
    assert not rows.targets.requires_grad


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), "two classes or more, got \\(3, 1\\)"),
        (torch.zeros(()), torch.zeros((), dtype=torch.int64), "two classes or more"),
        (torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64), "integer of shape \\(3,\\).*got torch.int64 of shape"),
        (torch.zeros(3, 4), torch.zeros(3), "probabilities of shape \\(3, 4\\), got torch.float32 of shape \\(3,\\)"),
    ],
)
def test_wrong_shapes_are_refused_with_what_was_expected_and_what_came(
    logits: torch.Tensor, targets: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        flat_rows(logits, targets)
