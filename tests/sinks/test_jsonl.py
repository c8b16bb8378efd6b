import errno
import json
import logging
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers.disks import small_disk
from helpers.reports import every_kind, histogram
from hypothesis import given, settings
from hypothesis import strategies as st

import logitwatch
from logitwatch.sinks.jsonl import SCHEMA, JsonlSink, as_reading, read_jsonl
from logitwatch.sinks.readings import Alert, Curve, Figure, Heatmap, Scalars, Table, Text
from logitwatch.sinks.room import RESERVE


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


def test_a_tag_that_comes_to_mean_something_else_says_so(path):
    report = [
        Table(tag="t", step=1, columns=[], rows=[], meaning="one thing"),
        Heatmap(tag="t", step=1, values=[], row_labels=[], column_labels=[], meaning="a third"),
        Table(tag="t", step=2, columns=[], rows=[], meaning="one thing"),
        Table(tag="t", step=3, columns=[], rows=[], meaning="another"),
    ]
    assert [record["meaning"] for record in written(path, report)[1:]] == [
        "one thing",
        "a third",
        "one thing",
        "another",
    ]
    assert path.read_text().count('"meaning"') == 3


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


def test_a_report_is_one_write(path):
    sizes = set()
    sink = JsonlSink(path)
    for step in range(3):
        sink.write(every_kind(step=step))
        sizes.add(path.stat().st_size)
    assert {len(path.read_bytes()[:size].splitlines()) for size in sizes} == {10, 19, 28}
    writes = []

    class Watched:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            writes.append(len(data))
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    sink._file = Watched(sink._file)
    sink.write(every_kind(step=4))
    assert writes == [path.stat().st_size - max(sizes)]
    sink._file = sink._file.file
    sink.close()


HOSTILE = [
    "a\x00b",
    "\u202egnp.exe",
    "../../../etc/passwd",
    "two\nlines\r\n\x85\u2028\u2029",
    "\ud800 alone \udfff",
    '","crc":"00000000"}',
    '\\","torn":"00000000"}\n{"kind":"header","schema":1}',
    "x" * 2**20,
    "=cmd|' /C calc'!A0",
    "",
]


def test_the_disk_is_waited_for_in_close_alone(path, monkeypatch):
    waited = []
    monkeypatch.setattr("logitwatch.sinks.jsonl.os.fsync", waited.append)
    sink = JsonlSink(path)
    sink.write(every_kind())
    sink.write(every_kind())
    file = sink._file.fileno()
    assert waited == []
    sink.close()
    sink.close()
    assert waited == [file]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_text_holds_comes_back_from_a_line_of_its_own(path, text):
    readings = [
        Scalars(values={text: 1.0}, step=1),
        Text(tag=text, step=1, markdown=text),
        Table(tag=text, step=1, columns=[text], rows=[[text]], meaning=text),
        Alert(rule=text, step=1, level=text, title=text, text=text, values={text: 1.0}),
        Heatmap(tag=text, step=1, values=[[1.0]], row_labels=[text], column_labels=[text], unit=text, meaning=text),
        histogram(text, step=1, unit=text),
    ]
    records = written(path, readings)
    assert [as_reading(record) for record in records[1:]] == readings
    assert path.read_bytes().isascii()
    assert len(path.read_bytes().splitlines()) == 1 + len(readings)


def test_a_report_that_cannot_be_written_down_leaves_the_record_as_it_was(path):
    sink = JsonlSink(path)
    sink.write([Scalars(values={"a": 1.0}, step=1)])
    before = path.read_bytes()
    with pytest.raises(TypeError):
        sink.write([histogram(), Scalars(values={"logits/val/entropy": None}, step=2)])
    assert path.read_bytes() == before
    sink.write([histogram()])
    sink.close()
    assert list(read_jsonl(path))[-1]["meaning"] == "distribution of the logits"
    assert sink.path == str(path)


# Faults of the disk, real ones.


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "logitwatch"]


def assert_goes_on_elsewhere(sink, elsewhere, caplog, reason):
    """Two reports of every kind are in the fresh folder, whole and once; that was said once."""
    former = sink.path
    with caplog.at_level(logging.WARNING, logger="logitwatch"):
        sink.write(every_kind(step=1))
        sink.write(every_kind(step=2))
        sink.close()
    (folder,) = elsewhere.iterdir()
    assert folder.name.startswith("logitwatch-")
    assert sink.path == str(folder / "logitwatch.jsonl")
    steps = [record.get("step") for record in read_jsonl(sink.path)]
    assert steps == [None] + [1] * 9 + [2] * 9
    (said,) = warnings_of(caplog)
    assert reason in said
    assert said.startswith(f"{former} cannot be written, ")
    assert said.endswith(f"the record goes on in {sink.path}")


def test_below_a_file_no_folder_can_be_made_and_the_record_goes_on_elsewhere(tmp_path, elsewhere, caplog):
    (tmp_path / "file").touch()
    sink = JsonlSink(tmp_path / "file" / "run" / "logitwatch.jsonl")
    assert_goes_on_elsewhere(sink, elsewhere, caplog, "Not a directory")


def test_from_a_disk_that_is_read_only_the_record_goes_on_elsewhere(tmp_path, elsewhere, caplog):
    with small_disk(tmp_path / "disk", "ro") as disk:
        sink = JsonlSink(disk / "run" / "logitwatch.jsonl")
        assert_goes_on_elsewhere(sink, elsewhere, caplog, "Read-only file system")


def test_a_disk_that_turns_read_only_amid_a_run_sends_the_record_elsewhere(tmp_path, elsewhere, caplog):
    with small_disk(tmp_path / "disk", "size=32m") as disk:
        sink = JsonlSink(disk / "logitwatch.jsonl")
        sink.write([Scalars(values={"a": 1.0}, step=0)])
        sink.close()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert_goes_on_elsewhere(sink, elsewhere, caplog, "Read-only file system")
        assert [record.get("step") for record in read_jsonl(disk / "logitwatch.jsonl")] == [None, 0]


def test_a_disk_without_room_but_for_others_is_left_to_them(tmp_path, elsewhere, caplog):
    with small_disk(tmp_path / "disk", f"size={RESERVE - 4096}") as disk:
        sink = JsonlSink(disk / "logitwatch.jsonl")
        assert_goes_on_elsewhere(sink, elsewhere, caplog, "less than 16 MiB left")
        assert list(disk.iterdir()) == []


def test_a_disk_that_fills_amid_a_run_keeps_what_it_has(tmp_path, elsewhere, caplog):
    with small_disk(tmp_path / "disk", f"size={RESERVE + 2**20}") as disk:
        sink = JsonlSink(disk / "logitwatch.jsonl")
        sink.write([Scalars(values={"a": 1.0}, step=0)])
        (disk / "checkpoint").write_bytes(bytes(2**20))
        assert_goes_on_elsewhere(sink, elsewhere, caplog, "less than 16 MiB left")
        assert [record.get("step") for record in read_jsonl(disk / "logitwatch.jsonl")] == [None, 0]


def test_a_report_the_disk_took_half_of_is_whole_elsewhere(tmp_path, elsewhere, caplog):
    report = [Scalars(values={"a": 1.0}, step=1), Text(tag="t", step=1, markdown="x" * 2 * RESERVE)]
    with small_disk(tmp_path / "disk", f"size={RESERVE + 2**20}") as disk:
        sink = JsonlSink(disk / "logitwatch.jsonl")
        sink.write([Scalars(values={"a": 0.0}, step=0)])
        sink.write(report)
        sink.close()
        assert Path(disk / "logitwatch.jsonl").stat().st_size > RESERVE, "the disk took what it could"
        assert [record.get("step") for record in read_jsonl(disk / "logitwatch.jsonl")] == [None, 0, 1]
    assert [as_reading(record) for record in read_jsonl(sink.path)] == [None, *report]
    (said,) = warnings_of(caplog)
    assert "No space left on device" in said


def test_a_device_that_is_always_full_sends_the_record_elsewhere(tmp_path, elsewhere, caplog):
    (tmp_path / "logitwatch.jsonl").symlink_to("/dev/full")
    if shutil.disk_usage("/dev/full").free < RESERVE:
        pytest.skip("/dev has less room than the reserve")
    assert_goes_on_elsewhere(JsonlSink(tmp_path / "logitwatch.jsonl"), elsewhere, caplog, "No space left on device")


@pytest.fixture
def file_limit():
    """Sets the largest size a file of this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_report_over_the_limit_of_a_file_is_an_error_and_the_file_goes_on(path, elsewhere, file_limit):
    sink = JsonlSink(path)
    sink.write([Scalars(values={"logits/val/entropy": 0.0}, step=0)])
    position = sink.position()
    file_limit(RESERVE + 2**20)
    with pytest.raises(OSError, match="File too large") as raised:
        sink.write([Scalars(values={"b": 1.0}, step=1), Text(tag="t", step=1, markdown="x" * 2 * RESERVE)])
    assert raised.value.errno == errno.EFBIG
    assert list(elsewhere.iterdir()) == []
    assert sink.path == str(path)
    assert sink.position() == position
    file_limit(4 * RESERVE)
    sink.write([Scalars(values={"logits/val/entropy": 2.0}, step=2)])
    sink.close()
    records = list(read_jsonl(path))
    assert [record.get("step") for record in records] == [None, 0, 1, None, 2]
    assert records[-1]["meaning"].startswith("mean entropy")


def test_a_file_near_its_limit_sends_the_record_elsewhere(path, elsewhere, file_limit, caplog):
    path = path.parent.parent.parent / "logitwatch.jsonl"
    path.parent.mkdir(parents=True)
    written(path, [Text(tag="t", step=0, markdown="x" * 2**20)])
    file_limit(RESERVE + 2**20)
    assert_goes_on_elsewhere(JsonlSink(path), elsewhere, caplog, "less than 16 MiB left")


def test_where_nothing_can_be_written_the_caller_is_told_and_may_try_again(tmp_path, elsewhere, caplog):
    elsewhere.rmdir()
    elsewhere.touch()
    (tmp_path / "run").touch()
    sink = JsonlSink(tmp_path / "run" / "logitwatch.jsonl")
    for _ in range(2):
        with pytest.raises(OSError, match="Not a directory"):
            sink.write([Scalars(values={"a": 1.0}, step=1)])
        assert sink.path == str(tmp_path / "run" / "logitwatch.jsonl")
        assert sink.position() == {}
    (tmp_path / "run").unlink()
    sink.write([Scalars(values={"a": 2.0}, step=2)])
    sink.close()
    assert [record.get("step") for record in read_jsonl(sink.path)] == [None, 2]
    assert warnings_of(caplog) == []


def test_a_record_moves_once(tmp_path, elsewhere, caplog):
    (tmp_path / "run").touch()
    sink = JsonlSink(tmp_path / "run" / "logitwatch.jsonl")
    sink.write([Scalars(values={"a": 1.0}, step=1)])
    sink.close()
    moved = Path(sink.path)
    shutil.rmtree(moved.parent)
    moved.parent.touch()
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        sink.write([Scalars(values={"a": 2.0}, step=2)])
    assert sink.path == str(moved)
    assert len(warnings_of(caplog)) == 1


# A process that is killed.

WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from helpers.reports import training_report
from logitwatch.sinks.jsonl import JsonlSink
sink = JsonlSink(sys.argv[1])
step = int(sys.argv[3])
while True:
    step += 1
    sink.write(training_report(step=step, scalars=200))
    sys.stdout.buffer.write(step.to_bytes(8, "big"))
    sys.stdout.buffer.flush()
"""


def test_a_killed_process_loses_at_most_the_report_in_hand(tmp_path):
    path = tmp_path / "logitwatch.jsonl"
    step = 0
    for kill in range(10):
        tests = Path(__file__).parents[1]
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(tests), str(step)], stdout=subprocess.PIPE
        ) as process:
            told = process.stdout.read(8 * (1 + 7 * kill))
            process.send_signal(signal.SIGKILL)
            told += process.stdout.read()
        reports = int.from_bytes(told[-8:], "big")
        counts = {}
        for record in read_jsonl(path):
            if record["kind"] != "header":
                counts[record["step"]] = counts.get(record["step"], 0) + 1
        assert all(counts[known] == 204 for known in range(step + 1, reports + 1)), "each report that was told of"
        assert set(counts) <= set(range(1, reports + 2))
        step = reports + 1


# A run that goes on from a checkpoint.


def steps(path):
    return [record["step"] for record in read_jsonl(path) if record["kind"] != "header"]


def report(step):
    return [Scalars(values={"logits/val/entropy": float(step)}, step=step), Text(tag="ünï", step=step, markdown="x")]


@pytest.fixture
def resumed(path):
    """The positions after each of six reports, the file, and a sink of a later process."""
    sink, positions = JsonlSink(path), []
    for step in range(6):
        sink.write(report(step))
        positions.append(sink.position())
    sink.close()
    return positions, path, JsonlSink(path)


def test_before_anything_is_written_there_is_no_position(path):
    sink = JsonlSink(path)
    assert sink.position() == {}
    sink.write([])
    sink.close()
    assert sink.position()["offset"] == path.stat().st_size


def test_a_position_is_plain_and_of_the_first_session(resumed):
    positions, path, sink = resumed
    (began,) = {record["time"] for record in read_jsonl(path) if record["kind"] == "header"}
    assert positions[-1] == {"path": str(path), "offset": path.stat().st_size, "began": began}
    assert [type(value) for value in positions[-1].values()] == [str, int, float]
    sink.write(report(6))
    assert sink.position() == {"path": str(path), "offset": path.stat().st_size, "began": began}
    sink.close()
    assert sink.position()["offset"] == path.stat().st_size


def test_a_position_survives_json_and_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = JsonlSink("x.jsonl")
    sink.write(report(1))
    position = json.loads(json.dumps(sink.position()))
    assert position["path"] == str(tmp_path / "x.jsonl")
    sink.write(report(2))
    sink.close()
    sink = JsonlSink("x.jsonl")
    sink.rewind(position)
    assert steps("x.jsonl") == [1, 1]


@pytest.mark.parametrize("saved", range(6))
def test_replayed_steps_are_in_the_record_once(resumed, saved, caplog):
    positions, path, sink = resumed
    sink.rewind(positions[saved])
    assert sink.position() == positions[saved]
    for step in range(saved + 1, 8):
        sink.write(report(step))
    sink.close()
    assert steps(path) == [step for step in range(8) for _ in range(2)]
    assert all(record["meaning"] for record in read_jsonl(path) if record["kind"] == "scalar")
    replayed = path.with_name("logitwatch.replayed.jsonl")
    if saved == 5:
        assert not replayed.exists()
    else:
        assert steps(replayed) == [step for step in range(saved + 1, 6) for _ in range(2)]
        assert next(read_jsonl(replayed))["kind"] == "header"
    assert warnings_of(caplog) == []


def test_a_record_may_be_taken_back_again_and_again(resumed):
    positions, path, sink = resumed
    for saved in (4, 2, 2):
        sink.rewind(positions[saved])
        sink.write(report(saved + 1))
        sink.close()
        sink = JsonlSink(path)
    assert steps(path) == [step for step in range(4) for _ in range(2)]
    assert steps(path.with_name("logitwatch.replayed.jsonl")) == [5, 5, 3, 3, 4, 4, 5, 5, 3, 3]


def test_a_sink_that_is_open_is_taken_back_too(path):
    sink = JsonlSink(path)
    sink.write(report(0))
    position = sink.position()
    sink.write(report(1))
    sink.rewind(position)
    sink.write(report(1))
    sink.close()
    assert [record["kind"] for record in read_jsonl(path)] == ["header", "scalar", "text"] * 2
    assert steps(path) == [0, 0, 1, 1]


def test_a_killed_run_is_taken_back_with_its_torn_line(resumed):
    positions, path, sink = resumed
    os.truncate(path, path.stat().st_size - 30)
    sink.rewind(positions[3])
    sink.write(report(4))
    sink.close()
    assert steps(path) == [step for step in range(5) for _ in range(2)]
    assert steps(path.with_name("logitwatch.replayed.jsonl")) == [4, 4, 5]


def test_a_run_killed_between_copy_and_cut_has_the_tail_twice_and_not_never(resumed, monkeypatch):
    positions, path, sink = resumed

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("logitwatch.sinks.rewinding.os.fsync", killed)
        with pytest.raises(Killed):
            sink.rewind(positions[3])
    assert steps(path) == [step for step in range(6) for _ in range(2)]
    JsonlSink(path).rewind(positions[3])
    assert steps(path) == [step for step in range(4) for _ in range(2)]
    assert steps(path.with_name("logitwatch.replayed.jsonl")) == [4, 4, 5, 5] * 2


@pytest.mark.parametrize(
    "change",
    [
        {"began": 1.0},
        {"offset": 10**9},
        {"offset": 7},
        {"offset": "7"},
        {"offset": None, "began": []},
        {"offset": -1},
    ],
)
def test_a_position_of_another_file_changes_nothing_and_is_warned_of(resumed, change, caplog):
    positions, path, sink = resumed
    before = path.read_bytes()
    sink.rewind({**positions[3], **change})
    sink.rewind({})
    sink.rewind(None)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["logitwatch.jsonl"]
    assert len(warnings_of(caplog)) == 3
    assert all("is not taken back to" in said for said in warnings_of(caplog))
    assert sink.position() == {}


def test_where_there_is_no_file_there_is_nothing_to_take_back(path, caplog):
    JsonlSink(path).rewind({"path": str(path), "offset": 10, "began": 1.0})
    assert not path.parent.exists()
    assert warnings_of(caplog) == []


def test_a_file_that_cannot_be_taken_back_is_left_with_a_warning(resumed, caplog):
    positions, path, sink = resumed
    before = path.read_bytes()
    path.with_name("logitwatch.replayed.jsonl").mkdir()
    sink.rewind(positions[3])
    assert path.read_bytes() == before
    (said,) = warnings_of(caplog)
    assert "Is a directory" in said
