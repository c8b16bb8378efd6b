import json
import math

from hypothesis import given
from hypothesis import strategies as st

from logitwatch.sinks.plain_json import encoded, restore_numbers

texts = st.text(st.characters(codec=None))  # lone surrogates too
fields = st.one_of(st.floats(), st.integers(), st.booleans(), st.none(), texts)


@given(st.dictionaries(st.sampled_from(["tag", "title", "markdown", "columns"]), st.lists(texts)))
def test_every_text_comes_back_from_one_line_of_ascii(record):
    line = encoded(record)
    assert line.isascii()
    assert line.splitlines() == [line]
    restored = json.loads(line)
    restore_numbers(restored)
    assert restored == record


@given(st.dictionaries(st.sampled_from(["value", "x", "edges", "total"]), st.lists(st.floats())))
def test_every_number_comes_back_and_is_strict_json(record):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    restored = json.loads(encoded(record), parse_constant=refuse)
    restore_numbers(restored)
    assert repr(restored) == repr(record)


@given(st.lists(st.lists(fields)))
def test_cells_keep_what_they_are_text_or_number(rows):
    restored = json.loads(encoded({"rows": rows}))
    restore_numbers(restored)
    assert repr(restored["rows"]) == repr(rows)


def test_only_the_rows_of_a_record_itself_hold_cells():
    record = {"values": {"rows": math.nan}}
    restored = json.loads(encoded(record))
    restore_numbers(restored)
    assert repr(restored) == repr(record)
