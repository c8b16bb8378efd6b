import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitwatch.sinks.buckets import coarser


@given(st.lists(st.integers(0, 10**12), max_size=300), st.integers(1, 80))
def test_no_count_and_no_outer_edge_is_lost(counts, most):
    edges = [float(edge) for edge in range(len(counts) + 1)]
    fewer, bounds = coarser(counts, edges, most)
    assert sum(fewer) == sum(counts)
    assert len(fewer) <= most
    assert len(bounds) == len(fewer) + 1
    assert (bounds[0], bounds[-1]) == (edges[0], edges[-1])


@pytest.mark.parametrize("most", [3, 4])
def test_few_buckets_stay_as_they_are(most):
    assert coarser((1, 2, 3), (0, 1, 2, 3), most) == ([1, 2, 3], [0.0, 1.0, 2.0, 3.0])
