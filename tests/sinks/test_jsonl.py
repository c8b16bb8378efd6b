import json
import math

import numpy as np
import pytest
from helpers.reports import every_kind, histogram
from hypothesis import given, settings
from hypothesis import strategies as st

import logitwatch
from logitwatch.sinks.jsonl import SCHEMA, JsonlSink, as_reading, read_jsonl
from logitwatch.sinks.readings import Alert, Curve, Figure, Heatmap, Scalars, Table


@pytest.fixture
def path(tmp_path):
    return tmp_path / "made" / "on" / "demand" / "logitwatch.jsonl"


def written(path, *reports):
    sink = JsonlSink(path)
    for report in reports:
        sink.write(report)
    sink.close()
    return list(read_jsonl(path))


def strict(line):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_a_session_begins_with_a_header(path):
    (header,) = written(path, [])
    assert header.pop("time") > 1e9
    assert header == {"schema": SCHEMA, "kind": "header", "version": logitwatch.__version__}


def test_nothing_is_made_before_the_first_report(path):
    JsonlSink(path).close()
    assert not path.parent.exists()


def test_every_kind_but_a_figure_comes_back_as_it_was(path):
    report = [reading for reading in every_kind() if not isinstance(reading, (Scalars, Curve, Figure))]
    records = written(path, report)
    assert [as_reading(record) for record in records[1:]] == report


def test_scalars_have_a_line_a_tag_with_unit_and_meaning(path):
    records = written(path, [Scalars(values={"logits/val/entropy": 0.1, "mine": 2}, step=3)])[1:]
    assert [(record["kind"], record["tag"], record["step"], record["value"], record["unit"]) for record in records] == [
        ("scalar", "logits/val/entropy", 3, 0.1, "nats"),
        ("scalar", "mine", 3, 2.0, ""),
    ]
    assert records[0]["meaning"].startswith("mean entropy")
    assert as_reading(records[0]) == Scalars(values={"logits/val/entropy": 0.1}, step=3)


def test_the_meaning_is_written_once_and_read_everywhere(path):
    report = [Scalars(values={"logits/val/entropy": 0.5}, step=1), histogram()]
    records = written(path, report, report)
    assert path.read_text().count("mean entropy") == 1
    assert path.read_text().count("distribution of the logits") == 1
    assert len({record["meaning"] for record in records[1::2]}) == 1
    assert records[1]["meaning"] == records[3]["meaning"] != ""


def test_a_figure_is_noted_and_not_drawn(path):
    def never():
        raise AssertionError("drawn")

    record = written(path, [Figure(tag="f", step=1, factory=never)])[1]
    assert (record["kind"], record["tag"]) == ("figure", "f")
    assert as_reading(record) is None


@settings(deadline=None)
@given(value=st.floats())
def test_every_float_survives_bit_for_bit(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("floats") / "x.jsonl"
    scalar, curve = written(
        path, [Scalars(values={"a": value}, step=1), Curve(tag="c", step=1, x=[value], y=[1.0], weights=[1.0])]
    )[1:]
    for found in (scalar["value"], curve["x"][0]):
        assert np.float64(found).tobytes() == np.float64(value).tobytes() or (math.isnan(found) and math.isnan(value))


def test_nonfinite_numbers_are_valid_json_and_come_back(path):
    strange = [math.nan, math.inf, -math.inf]
    readings = [
        Scalars(values=dict(zip("abc", strange, strict=True)), step=1),
        histogram(minimum=math.inf, maximum=-math.inf),
        Heatmap(tag="h", step=1, values=[strange], row_labels=["NaN"], column_labels=["a", "b", "c"]),
        Table(tag="t", step=1, columns=["NaN"], rows=[["NaN", math.nan], ["Infinity", math.inf]]),
        Alert(rule="r", step=1, level="info", title="NaN", text="Infinity", values={"v": math.nan}),
    ]
    records = written(path, readings)[1:]
    for line in path.read_text().splitlines():
        strict(line)
    assert repr([record["value"] for record in records[:3]]) == repr(strange)
    assert repr(as_reading(records[3])) == repr(readings[1])
    assert repr(as_reading(records[4]).values) == repr([strange])
    assert as_reading(records[4]).row_labels == ["NaN"]
    assert repr(as_reading(records[5]).rows) == repr([["NaN", math.nan], ["Infinity", math.inf]])
    assert (records[6]["title"], records[6]["text"], math.isnan(records[6]["values"]["v"])) == ("NaN", "Infinity", True)


def test_arrays_and_strange_cells_are_written_as_what_they_say(path):
    table = Table(tag="t", step=1, columns=["a"], rows=[[np.float32(0.5)], [np.int64(3)], [path]])
    heat = Heatmap(tag="h", step=1, values=np.array([[1.0, np.nan]]), row_labels=["r"], column_labels=["a", "b"])
    records = written(path, [table, heat])[1:]
    assert records[0]["rows"] == [[0.5], [3], [str(path)]]
    assert repr(records[1]["values"]) == "[[1.0, nan]]"


def test_a_report_is_on_disk_when_write_returns(path):
    sink = JsonlSink(path)
    sink.write([Scalars(values={"a": 1.0}, step=1)])
    assert len(list(read_jsonl(path))) == 2
    sink.close()


def test_every_prefix_of_a_file_can_be_read(path):
    whole = written(path, every_kind())
    data = path.read_bytes()
    for cut in range(0, len(data), 17):
        path.write_bytes(data[:cut])
        found = list(read_jsonl(path))
        assert found == whole[: len(found)] or repr(found) == repr(whole[: len(found)])
        assert len(found) >= data[:cut].count(b"\n")


def test_a_run_that_was_killed_is_continued_after_its_torn_line(path):
    written(path, [Scalars(values={"a": 1.0}, step=1)])
    path.write_bytes(path.read_bytes()[:-9])
    records = written(path, [Scalars(values={"a": 2.0}, step=2)])
    assert [record["kind"] for record in records] == ["header", "header", "scalar"]
    assert records[-1]["value"] == 2.0


def test_a_second_fit_opens_a_second_session(path):
    sink = JsonlSink(path)
    for step in (1, 2):
        sink.write([Scalars(values={"a": 1.0}, step=step)])
        sink.close()
    assert [record["kind"] for record in read_jsonl(path)] == ["header", "scalar"] * 2


def test_damage_inside_a_session_is_an_error_with_its_line(path):
    written(path, [Scalars(values={"a": 1.0, "b": 2.0}, step=1)])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:10], lines[2]]))
    with pytest.raises(ValueError, match="line 2: not a JSON object"):
        list(read_jsonl(path))


def test_a_newer_schema_is_refused(path):
    written(path, [])
    path.write_text(path.read_text().replace('"schema":1', '"schema":99'))
    with pytest.raises(ValueError, match="has schema 99; this version reads up to 1"):
        list(read_jsonl(path))
