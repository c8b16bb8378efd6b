import pytest
import torch

from logitwatch.capture.explicit import observe, receiving


def test_nothing_happens_where_nobody_listens():
    assert observe(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)) is None
    assert observe("anything") is None


def test_what_is_observed_arrives_as_it_was_given():
    calls = []
    z, y, mask = torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long), torch.ones(2, 4)
    with receiving(lambda read: calls.append(read())):
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
    with receiving(lambda read: outer.append(read())):
        with receiving(lambda read: inner.append(read())):
            observe(torch.zeros(1, 2))
        observe(torch.zeros(1, 2))
    assert (len(outer), len(inner)) == (1, 1)


def test_nobody_listens_after_an_exception():
    calls = []
    with pytest.raises(RuntimeError), receiving(lambda read: calls.append(read())):
        raise RuntimeError
    observe(torch.zeros(1, 2))
    assert calls == []


def test_compiled_code_that_nobody_looks_at_is_free_of_it():
    def step(x):
        z = x * 2
        observe(z)
        return z + 1

    calls = []
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    with receiving(lambda read: calls.append(read())):
        assert torch.equal(compiled(torch.ones(2, 3)), torch.full((2, 3), 3.0))
    assert calls == []
