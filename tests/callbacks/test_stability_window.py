import pytest
import torch

from logitwatch.callbacks.stability_window import Window
from logitwatch.functional.row_statistics import row_statistics
from logitwatch.states.class_counts import MOST_CLASSES
from logitwatch.states.stability_summary import StabilitySummary


def of(z, y, *, classes=None, **where):
    state = StabilitySummary.of(
        row_statistics(z, y),
        y,
        torch.ones(len(y), dtype=torch.bool),
        num_classes=classes or z.shape[1],
        dtype=z.dtype,
        step=6,
        place=6,
    )
    return Window.of(state, **{"stage": "train", "loader": 0, "step": 9, **where})


Z, Y = torch.tensor([[3.0, 0.0, -8.0], [0.0, 1.0, float("nan")]], dtype=torch.bfloat16), torch.tensor([1, 0])


def test_it_is_the_state_in_plain_numbers():
    seen = of(Z, Y)
    assert (seen.rows, seen.counted, seen.nonfinite, seen.first_nonfinite, seen.absmax) == (2, 1, 1, 6, 8.0)
    assert (seen.predicted, seen.labelled) == ([1, 0, 0], [0, 1, 0])
    assert seen.looks == [seen.mean]
    assert (seen.where, of(Z, Y, stage="val", loader=2).where) == ("train", "val/dataloader_idx_2")


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float16, "float16"),
        (torch.bfloat16, "bfloat16"),
        (torch.float32, "float32 or wider"),
        (torch.float64, "float32 or wider"),
    ],
)
def test_the_type_is_told_by_range_and_spacing(dtype, name):
    seen = of(Z.to(dtype), Y)
    assert seen.type_name == name
    assert seen.half is (torch.finfo(dtype).bits == 16)


def test_a_vocabulary_has_no_list_of_classes():
    seen = of(Z, Y, classes=MOST_CLASSES + 1)
    assert (seen.predicted, seen.labelled, seen.num_classes) == ([], [], MOST_CLASSES + 1)


def test_no_row_is_no_look():
    nothing = Window.of(StabilitySummary.empty(), stage="val", loader=0, step=1)
    assert (nothing.rows, nothing.looks, nothing.predicted) == (0, [], [])
