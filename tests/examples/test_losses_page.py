"""docs/losses.md: its table says of every loss what the loss does, and its code runs."""

import re
from pathlib import Path

import pytest
import torch

from logitwatch import losses

PAGE = (Path(__file__).parents[2] / "docs/losses.md").read_text(encoding="utf-8")
# One line a loss: its name, what it does, the reference, soft targets, ignored rows, when to take it.
TABLE = {
    row[0].strip("`"): row[1:]
    for line in re.findall(r"^\| (`[A-Z].*) \|$", PAGE, re.MULTILINE)
    if len(row := line.split(" | ")) == 6
}
ARGUMENTS = {
    "BalancedSoftmax": ([3, 2, 1],),
    "LinearCrossEntropyLoss": (3, 3),
    "LogitAdjustedCrossEntropy": ([3, 2, 1],),
    "LogitPenalty": (0.5,),
    "ConfidencePenalty": (0.5,),
    "LogitSquashing": (losses.CrossEntropyLoss(),),
}
FURTHER = {
    "DistillationLoss": lambda rows: {"teacher_logits": torch.zeros(rows, 3)},
    "UnlikelihoodLoss": lambda rows: {"negatives": torch.full((rows,), 2)},
}


def value(name, logits, targets):
    torch.manual_seed(0)  # of the head inside a linear cross-entropy
    loss = getattr(losses, name)(*ARGUMENTS.get(name, ()))
    return loss(logits, targets, **FURTHER.get(name, lambda rows: {})(len(logits)))


def test_every_loss_has_a_line():
    classes = {name for name in losses.__all__ if name[0].isupper()}
    assert TABLE.keys() == classes - {"GradientAccount", "LogitLoss", "LossSum", "SoftCap"}


@pytest.mark.parametrize("name", sorted(TABLE))
def test_soft_targets_are_taken_where_the_page_says_so(name):
    logits, soft = torch.tensor([[1.0, 0.5, -1.0], [0.0, 2.0, 0.0]]), torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.7, 0.2]])
    said = TABLE[name][2]
    assert said in ("yes", "no", "needs no target", "of the loss inside")
    if said == "no":
        with pytest.raises((TypeError, ValueError)):
            value(name, logits, soft)
    else:
        assert value(name, logits, soft).isfinite()
    if said == "yes":
        assert value(name, logits, soft) != value(name, logits, soft.flip(1))
    if said == "needs no target":
        assert value(name, logits, None) == value(name, logits, soft)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_ignored_rows_do_not_count_where_the_page_says_so(name):
    assert TABLE[name][3] in ("rows", "labels")
    logits, targets = torch.tensor([[1.0, 0.5, -1.0], [9.0, 2.0, 0.0]]), torch.tensor([0, -100])
    if TABLE[name][3] == "labels":
        targets = torch.tensor([[1, 0, 1], [-100, -100, -100]])
    torch.testing.assert_close(value(name, logits, targets), value(name, logits[:1], targets[:1]))


def test_the_code_of_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) > 2
    space = {}
    for block in blocks:
        exec(block, space)
    assert space["loss"].isfinite()


def test_the_page_links_to_what_there_is():
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE)
    assert any(link.endswith(".png") for link in links)
    assert [link for link in links if not (Path(__file__).parents[2] / "docs" / link).exists()] == []
