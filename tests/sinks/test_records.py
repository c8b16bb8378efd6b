"""The two laws of a record: cut anywhere it is a prefix of itself, and no bit changes in silence."""

import os
import re

import pytest
from helpers.reports import every_kind

from logitwatch.sinks.jsonl import JsonlSink
from logitwatch.sinks.readings import Scalars
from logitwatch.sinks.records import SCHEMA, as_reading, read_jsonl
from logitwatch.sinks.seals import sealed

REPORTS = [
    every_kind(step=1, root="ünï/漢字/J*"),  # a J and a * are one bit from a newline
    [Scalars(values={"a": 1.0, "b": float("inf")}, step=2)],
    [Scalars(values={"a": 2.0}, step=3)],
]


def sessions(path, reports=REPORTS, *, torn=(40, 1)):
    """One session a report; of each but the last, as many bytes are cut off as ``torn`` says."""
    for index, report in enumerate(reports):
        sink = JsonlSink(path)
        sink.write(report)
        sink.close()
        if index < len(torn):
            os.truncate(path, path.stat().st_size - torn[index])
    return records(path)


def records(path):
    """Each record as it prints, for NaN does not equal itself."""
    return [repr(record) for record in read_jsonl(path)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.jsonl"


def test_a_record_of_torn_sessions_has_all_but_the_torn_lines(path):
    sessions(path)
    kinds = [record["kind"] for record in read_jsonl(path)]
    assert kinds == [
        *("header", "scalar", "scalar", "histogram", "curve", "heatmap", "table", "text", "alert"),
        *("header", "scalar", "scalar"),  # the line that lacked its newline alone is whole
        *("header", "scalar"),
    ]
    assert b'"torn":"' in path.read_bytes()


def test_cut_at_every_byte_a_record_is_a_prefix_of_itself(path):
    whole = sessions(path)
    data = path.read_bytes()
    for cut in reversed(range(len(data) + 1)):
        os.truncate(path, cut)
        found = records(path)
        assert found == whole[: len(found)]
        assert len(found) >= data[:cut].count(b"\n") - 1  # one line is torn


def test_cut_at_every_byte_and_continued_a_record_loses_nothing_but_the_cut_line(tmp_path):
    path = tmp_path / "whole.jsonl"
    whole = sessions(path)
    data = path.read_bytes()
    continued = tmp_path / "continued.jsonl"
    for cut in range(0, len(data) + 1):
        continued.write_bytes(data[:cut])
        before = records(continued)
        sink = JsonlSink(continued)
        sink.write(REPORTS[1])
        sink._file.close()  # as a process that ends
        after = records(continued)
        assert after[: len(before)] == before == whole[: len(before)]
        kinds = [record["kind"] for record in read_jsonl(continued)]
        assert kinds[len(before) :] == ["header", "scalar", "scalar"]


def every_flip(path):
    """Flip each bit of a file in turn, and back after it was looked at; yields the line the bit is in."""
    data = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for offset, byte in enumerate(data):
            line = data.count(b"\n", 0, offset) + 1
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), offset)
                yield line
            os.pwrite(file.fileno(), bytes([byte]), offset)


@pytest.mark.parametrize("end", [0, 30], ids=["whole", "torn"])
def test_every_bit_that_flips_is_found_or_changes_nothing(path, end):
    """The remains of a line cut short are no record, so a bit in them may flip: the records are what they were."""
    whole = sessions(path, torn=(40, 1, end) if end else (40, 1))
    flips = missed = 0
    for line in every_flip(path):
        flips += 1
        try:
            found = records(path)
        except ValueError as error:
            place, number = re.match(r"(.*), line (\d+): damaged", str(error)).groups()
            assert place == str(path)
            assert int(number) in (line, line + 1)  # a newline that came or went moves it
        else:
            missed += 1
            assert found == whole
    last = path.read_bytes().rpartition(b"\n")[2]
    assert missed <= 8 * len(last)
    assert flips == 8 * path.stat().st_size


def test_damage_of_any_length_is_found(path):
    sessions(path)
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    for start in range(0, len(data) - len(lines[-1]), 29):
        for damage in (b"\x00" * 64, b"\n", b'{"kind":"scalar"}\n', data[start : start + 11] * 2):
            path.write_bytes(data[:start] + damage + data[start + 11 :])
            with pytest.raises(ValueError, match="damaged"):
                list(read_jsonl(path))


def test_a_line_that_is_sealed_and_no_record_is_an_error_with_its_line(path):
    for body, reason in [(b'{"kind":oops', "not JSON"), (b'{"tag":"a"', "with a kind"), (b'"kind"', "not JSON")]:
        path.write_bytes(sealed([b'{"kind":"header","schema":1', body]))
        with pytest.raises(ValueError, match=f"x.jsonl, line 2: .*{reason}"):
            list(read_jsonl(path))


def test_a_newer_schema_is_refused(path):
    path.write_bytes(sealed([b'{"kind":"header","schema":99']))
    with pytest.raises(ValueError, match=f"x.jsonl, line 1: has schema 99; this version reads up to {SCHEMA}"):
        list(read_jsonl(path))


def test_a_kind_that_is_not_known_is_read_and_is_no_reading(path):
    path.write_bytes(sealed([b'{"kind":"newer","tag":"t","step":1']))
    (record,) = read_jsonl(path)
    assert record == {"kind": "newer", "tag": "t", "step": 1, "meaning": ""}
    assert as_reading(record) is None


def test_an_empty_file_has_no_records(path):
    path.touch()
    assert list(read_jsonl(path)) == []
