import pytest

import logitwatch.sinks as sinks


def test_the_public_names_are_sorted_and_there():
    assert sinks.__all__ == sorted(sinks.__all__)
    for name in sinks.__all__:
        assert getattr(sinks, name).__name__ == name if name != "Reading" else getattr(sinks, name)


def test_a_wrong_name_is_told_what_there_is():
    with pytest.raises(AttributeError, match=r"'TensorboardSink'; it has .*TensorBoardSink"):
        sinks.TensorboardSink  # noqa: B018
