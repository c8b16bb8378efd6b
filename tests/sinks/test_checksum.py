import io
import sys

import pytest
from helpers.event_files import accumulated
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from logitwatch.sinks.checksum import checksum_in_python, compiled_checksum, crc32c, record, use_compiled_checksum


@given(st.binary(max_size=300))
def test_a_record_has_the_bytes_tensorboard_writes(data):
    theirs = io.BytesIO()
    RecordWriter(theirs).write(data)
    assert record(data, compiled_checksum()) == theirs.getvalue()


def test_a_file_so_written_is_read_by_tensorboard(tmp_path):
    writer = SummaryWriter(str(tmp_path))
    assert use_compiled_checksum(writer)
    for step in range(100):
        writer.add_scalar("a", step / 3, step)
    writer.close()
    assert [(event.step, event.value) for event in accumulated(tmp_path).Scalars("a")] == [
        (step, pytest.approx(step / 3)) for step in range(100)
    ]


def test_only_the_one_writer_is_changed_and_only_once(tmp_path):
    ours, other = SummaryWriter(str(tmp_path / "a")), SummaryWriter(str(tmp_path / "b"))
    inside = ours._get_file_writer().event_writer._async_writer._writer
    before = RecordWriter.write
    assert use_compiled_checksum(ours)
    write = inside.write
    assert use_compiled_checksum(ours)
    assert inside.write is write
    assert RecordWriter.write is before
    assert "write" not in vars(other._get_file_writer().event_writer._async_writer._writer)
    ours.close()
    other.close()


def test_a_writer_whose_bytes_differ_is_left_alone(tmp_path):
    class Newer(RecordWriter):
        def write(self, data):
            self._writer.write(b"v2" + data)

    writer = SummaryWriter(str(tmp_path))
    inside = writer._get_file_writer().event_writer._async_writer
    inside._writer = Newer(inside._writer._writer)
    assert not use_compiled_checksum(writer)
    assert "write" not in vars(inside._writer)
    writer.close()


def test_without_the_compiled_library_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    assert compiled_checksum() is None
    writer = SummaryWriter(str(tmp_path))
    assert not use_compiled_checksum(writer)
    writer.close()


@given(st.binary(max_size=300))
def test_the_checksum_in_python_is_the_one_in_c(data):
    assert checksum_in_python(data) == compiled_checksum()(data) == crc32c()(data)


def test_without_the_compiled_library_there_is_still_a_checksum(monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    assert crc32c.__wrapped__() is checksum_in_python
