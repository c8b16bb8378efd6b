"""The top level: names that load when they are first used. What importing costs is in tests/architecture."""

import importlib

import pytest

import logitwatch


def test_each_public_name_is_the_object_of_its_home():
    for name in logitwatch.__all__:
        found = getattr(logitwatch, name)
        assert getattr(importlib.import_module(found.__module__), name) is found


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'Monitr'; it has .*LogitMonitor"):
        _ = logitwatch.Monitr


def test_completion_sees_the_names_before_they_are_loaded():
    assert set(logitwatch.__all__) <= set(dir(logitwatch))


def test_a_submodule_is_imported_as_usual():
    module = importlib.import_module("logitwatch.capture")
    assert module.observe is logitwatch.observe
