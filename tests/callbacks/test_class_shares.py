import pytest
import torch

from logitwatch.callbacks.class_shares import ELEMENTS, FEWEST, MOST_LINES, class_gradient, class_table
from logitwatch.capture.observation import Observation
from logitwatch.capture.split_rows import whole_observation
from logitwatch.functional.row_statistics import row_statistics
from logitwatch.states.class_gradient import CELLS, ClassGradient


def seen(classes, rows=4):
    z = torch.randn(rows, classes, generator=torch.Generator().manual_seed(0))
    return Observation.of(z, torch.arange(rows) % classes)


def test_of_many_logits_rows_evenly_spaced_are_taken():
    classes = ELEMENTS // 4
    observation = seen(classes, rows=2 * FEWEST)
    expected = ClassGradient.of(observation.logits[::2], observation.targets[::2], torch.ones(8, dtype=torch.bool))
    assert torch.equal(class_gradient(observation).up, expected.up)


def test_ignored_rows_and_bad_targets_are_left_out():
    z, y = torch.zeros(4, 3), torch.tensor([0, -100, 7, -1])
    assert class_gradient(Observation.of(z, y)).up.tolist()[:3] == pytest.approx([2 / 3, 0.0, 0.0])


@pytest.mark.parametrize(
    "observation",
    [
        Observation.of(torch.zeros(3, 2)),
        Observation.of(torch.zeros(3), torch.zeros(3), binary=True),
        whole_observation(
            row_statistics(torch.zeros(3, 2), torch.zeros(3).long()), torch.zeros(3).long(), torch.ones(3).bool(), 2
        ),
    ],
    ids=["no targets", "yes or no", "no logits"],
)
def test_where_there_is_nothing_to_say_there_is_no_table(observation):
    found = class_gradient(observation)
    assert len(found.shares()) == 0
    assert class_table("gradients/val/classes", 1, found) == []


def test_the_largest_come_first_and_no_more_than_twenty():
    found = class_gradient(seen(50, rows=200))
    (table,) = class_table("gradients/val/classes", 1, found)
    shares = [line[1] for line in table.rows]
    assert shares == found.shares().sort(descending=True).values[:MOST_LINES].tolist()
    assert all(share == pytest.approx(up + down, rel=1e-15) for _, share, up, down in table.rows)
    assert table.meaning


def test_classes_are_named_and_those_beyond_the_names_go_by_their_index():
    (table,) = class_table("t", 1, class_gradient(seen(3)), ["cat", "owl"])
    assert {line[0] for line in table.rows} == {"cat", "owl", "2"}


def test_neighbours_that_share_a_line_are_named_by_the_first_and_the_last():
    (table,) = class_table("t", 1, class_gradient(seen(2 * CELLS)), ["cat"])
    assert {"cat to 1", "2 to 3"} <= {line[0] for line in table.rows}
