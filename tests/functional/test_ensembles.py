import numpy as np
import pytest
import scipy.stats
import torch

from logitwatch.functional.ensembles import average_logits, mixture_of_probabilities, mutual_information


@pytest.fixture
def members() -> torch.Tensor:
    return 3 * torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_linear_pool_is_the_mean_of_the_probabilities(members):
    expected = members.softmax(-1).mean(0)
    torch.testing.assert_close(mixture_of_probabilities(members).exp(), expected)


def test_the_geometric_pool_is_the_mean_of_the_log_probabilities(members):
    torch.testing.assert_close(average_logits(members), members.log_softmax(-1).mean(0))


def test_the_geometric_pool_ignores_the_offset_of_a_member(members):
    shifted = members + torch.tensor([0.0, 10.0, -20.0, 1e3, 5.0], dtype=torch.float64)[:, None, None]
    # 1e3 costs float64 about three of its sixteen digits
    torch.testing.assert_close(average_logits(shifted), average_logits(members), rtol=0, atol=1e-12)


def test_mutual_information_is_what_scipy_makes_of_the_entropies(members):
    p = members.softmax(-1).numpy()
    expected = scipy.stats.entropy(p.mean(0), axis=-1) - scipy.stats.entropy(p, axis=-1).mean(0)
    np.testing.assert_allclose(mutual_information(members).numpy(), expected, atol=1e-12)


def test_members_and_classes_may_lie_on_any_axis(members):
    moved = members.movedim((0, -1), (2, 0))  # classes first, members last
    torch.testing.assert_close(mutual_information(moved, member_dim=2, dim=0), mutual_information(members))
    for pool in (average_logits, mixture_of_probabilities):
        torch.testing.assert_close(pool(moved, member_dim=2, dim=0), pool(members).T)


def test_members_that_agree_carry_no_information(members):
    same = members[:1].expand(5, -1, -1)
    # the entropies are equal up to the rounding of the mean
    torch.testing.assert_close(mutual_information(same), torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-14)
