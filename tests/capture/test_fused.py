import threading

import torch
from torch import nn, overrides
from torch.overrides import TorchFunctionMode

from logitwatch.capture.fused import Listening, unheard

PLAIN = overrides.has_torch_function
X = torch.zeros(2)


class Marked(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return super().__torch_function__(func, types, args, kwargs or {})


MARKED = X.as_subclass(Marked)


class Other(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Ours(Listening):
    def __init__(self):
        super().__init__()
        self.heard = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.heard.append(func)
        return func(*args, **(kwargs or {}))


def test_a_listening_mode_is_not_told_of_and_hears_all_the_same():
    with Ours() as mode:
        assert overrides.has_torch_function((X,))
        with unheard():
            assert not overrides.has_torch_function((X, nn.Parameter(X)))
            assert mode.heard == []
            torch.add(X, X)
            assert mode.heard == [torch.add]


def test_what_others_do_is_told_of_as_before():
    with unheard():
        assert not overrides.has_torch_function((X,))
        assert overrides.has_torch_function((X, MARKED))
        with Ours():
            assert overrides.has_torch_function((X, MARKED))
            with Other():
                assert overrides.has_torch_function((X,))
            with Ours():
                assert not overrides.has_torch_function((X,))
        with Other():
            assert overrides.has_torch_function((X,))


def test_compiled_code_gets_the_same_answers():
    def asks(x, y):
        return x + 1 if overrides.has_torch_function((x, y)) else x - 1

    torch._dynamo.reset()
    compiled = torch.compile(asks, backend="eager", fullgraph=True)
    with unheard(), Ours():
        assert compiled(X, X).tolist() == [-1, -1]
        assert compiled(X, nn.Parameter(X)).tolist() == [-1, -1]
        assert compiled(X, MARKED).tolist() == [1, 1]


def test_torch_has_its_own_back_when_the_last_one_is_done():
    with unheard():
        ours = overrides.has_torch_function
        assert ours is not PLAIN
        with unheard():
            assert overrides.has_torch_function is ours
        assert overrides.has_torch_function is ours
    assert overrides.has_torch_function is PLAIN


def test_what_somebody_else_put_there_meanwhile_stays(monkeypatch):
    def theirs(values):
        return PLAIN(values)

    monkeypatch.setattr(overrides, "has_torch_function", PLAIN)  # put back at the end of the test
    with unheard():
        overrides.has_torch_function = theirs
    assert overrides.has_torch_function is theirs


def test_another_thread_is_told_of_its_own_modes():
    told = []

    def elsewhere():
        told.append(overrides.has_torch_function((X,)))
        with Other():
            told.append(overrides.has_torch_function((X,)))

    with unheard(), Ours():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert not overrides.has_torch_function((X,))
    assert told == [False, True]
