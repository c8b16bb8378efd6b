import dataclasses
from typing import get_args

import pytest

from logitwatch.sinks import readings
from logitwatch.sinks.readings import Reading, Scalars


@pytest.mark.parametrize("kind", get_args(Reading), ids=lambda kind: kind.__name__)
def test_a_reading_is_frozen_names_its_step_and_takes_its_fields_by_name(kind):
    fields = {field.name: field for field in dataclasses.fields(kind)}
    assert "step" in fields
    assert all(field.kw_only for field in fields.values())
    assert kind.__dataclass_params__.frozen


def test_every_kind_of_reading_is_in_the_union():
    kinds = {name for name, kind in vars(readings).items() if dataclasses.is_dataclass(kind)}
    assert kinds == {kind.__name__ for kind in get_args(Reading)}


def test_a_positional_field_is_refused():
    with pytest.raises(TypeError):
        Scalars({"loss": 1.0}, 3)
