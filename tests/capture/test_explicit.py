import pytest
import torch

from logitwatch.capture.explicit import observe, receiving


def test_nothing_happens_where_nobody_listens():
    assert observe(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)) is None
    assert observe("anything") is None


def test_what_is_observed_arrives_as_it_was_given():
    calls = []
    z, y, mask = torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4)
    with receiving(calls.append):
        observe(z, y, dim=1, ignore_index=7, mask=mask, source="head")
        observe(z)
    first, second = calls
    assert first.logits is z
    assert first.targets is y
    assert first.mask is mask
    assert (first.class_dim, first.ignore_index, first.source) == (1, 7, "head")
    assert (second.targets, second.class_dim, second.ignore_index, second.source) == (None, -1, -100, "observe")


def test_the_innermost_listens_and_the_outer_one_again_after_it():
    outer, inner = [], []
    with receiving(outer.append):
        with receiving(inner.append):
            observe(torch.zeros(1, 2))
        observe(torch.zeros(1, 2))
    assert (len(outer), len(inner)) == (1, 1)


def test_nobody_listens_after_an_exception():
    calls = []
    with pytest.raises(RuntimeError), receiving(calls.append):
        raise RuntimeError
    observe(torch.zeros(1, 2))
    assert calls == []


def test_inside_compiled_code_it_still_arrives_with_real_tensors():
    calls = []

    def step(x):
        z = x * 2
        observe(z)
        return z + 1

    compiled = torch.compile(step, backend="eager")
    with receiving(calls.append):
        compiled(torch.ones(2, 3))
    assert [call.logits.tolist() for call in calls] == [[[2.0] * 3] * 2]
