import torch

from logitwatch.states.class_counts import MOST_CLASSES, ClassCounts

P, Y = torch.tensor([0, 1, 1, 2, 1]), torch.tensor([0, 1, 2, -100, 7])


def test_rows_with_a_target_are_counted_by_what_they_are_and_by_what_they_should_be():
    seen = ClassCounts.of(P, Y, num_classes=3)
    assert seen.predicted[:3].tolist() == [1, 2, 0]
    assert seen.labelled[:3].tolist() == [1, 1, 1]
    assert seen.predicted[3:].sum() == seen.labelled[3:].sum() == 0


def test_a_masked_row_is_not_counted():
    seen = ClassCounts.of(P, Y, torch.tensor([False, True, True, True, True]), num_classes=3)
    assert seen.predicted[:3].tolist() == [0, 2, 0]
    assert seen.labelled[:3].tolist() == [0, 1, 1]


def test_the_last_class_that_is_counted_has_a_place_and_a_larger_vocabulary_has_none():
    last = torch.tensor([MOST_CLASSES - 1])
    seen = ClassCounts.of(last, last, num_classes=MOST_CLASSES)
    assert seen.predicted[-1] == seen.labelled[-1] == 1
    wide = ClassCounts.of(last, last, num_classes=MOST_CLASSES + 1)
    assert wide.predicted.sum() == wide.labelled.sum() == 0
    assert wide.num_classes == MOST_CLASSES + 1


def test_the_number_of_classes_is_the_largest_seen():
    merged = ClassCounts.of(P, Y, num_classes=3).merge(ClassCounts.of(P, Y, num_classes=8)).merge(ClassCounts.empty())
    assert merged.num_classes == 8
    assert merged.labelled[7] == 1
