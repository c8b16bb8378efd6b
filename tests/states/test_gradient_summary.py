import pytest
import torch

from logitwatch.states.gradient_summary import GradientSummary


def summary(norm, correct=None, counted=None, bound=0.01):
    norm = torch.tensor(norm)
    yes = torch.ones(len(norm), dtype=torch.bool)
    return GradientSummary.of(
        norm, yes if correct is None else correct, yes if counted is None else counted, bound=bound
    )


def test_numbers_are_of_the_rows_that_count_and_have_a_target():
    counted = torch.tensor([True, True, True, False, True])
    correct = torch.tensor([True, False, False, True, True])
    state = summary([0.5, 0.001, 1.0, 0.0, float("nan")], correct, counted)
    assert state.seen.item() == 5
    assert state.norm().item() == pytest.approx(1.501 / 3)
    assert state.vanishing().item() == pytest.approx(1 / 3)
    assert state.accuracy().item() == pytest.approx(1 / 3)


def test_a_norm_at_the_bound_has_not_vanished():
    assert summary([0.25, 0.2499], bound=0.25).vanishing().item() == 0.5


def test_the_hardest_hold_a_tenth_where_all_pull_alike_and_all_where_one_does():
    assert summary([0.5] * 20).hardest().item() == pytest.approx(0.1)
    assert summary([1.0, 1.0] + [0.0] * 18).hardest().item() == pytest.approx(1.0)


def test_of_no_rows_there_is_no_number():
    nothing = GradientSummary.empty()
    assert all(value.isnan() for value in (nothing.norm(), nothing.vanishing(), nothing.hardest(), nothing.accuracy()))


def test_terms_that_a_look_did_not_have_leave_the_means_of_others_alone():
    pair = torch.tensor(2.0), torch.tensor(-0.5)
    one = summary([0.5]).with_terms([pair, None])
    two = summary([0.5]).with_terms([None, pair, (torch.tensor(1.0), torch.tensor(float("nan")))])
    both = one.merge(two)
    assert both.term_norms.count.tolist()[:4] == [1, 1, 1, 0]
    assert both.term_norms.mean.tolist()[:3] == [2.0, 2.0, 1.0]
    assert both.term_cosines.mean.tolist()[:2] == [-0.5, -0.5]
    assert both.term_cosines.count.tolist()[2] == 0
