import errno
import io

import pytest

from logitwatch.sinks.seals import is_torn_line, sealed
from logitwatch.sinks.sessions import began, begun, write_all


def begin(path, now):
    file, opening = begun(str(path), now)
    with file:
        write_all(file, opening)
    return opening


def test_a_file_and_its_folder_are_made_and_a_header_begins_them(tmp_path):
    path = tmp_path / "made" / "x.jsonl"
    opening = begin(path, "5.250")
    assert path.read_bytes() == opening
    assert began(str(path)) == 5.25


def test_a_later_session_leaves_the_time_of_the_first(tmp_path):
    path = tmp_path / "x.jsonl"
    begin(path, "5.250")
    begin(path, "9.000")
    assert began(str(path)) == 5.25


@pytest.mark.parametrize("length", [1, 50, 1 << 16, (1 << 16) + 1, 200_000])
def test_remains_of_any_length_are_closed(tmp_path, length):
    path = tmp_path / "x.jsonl"
    first = begin(path, "5.250")
    path.write_bytes(first + b"x" * length)
    begin(path, "9.000")
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    assert is_torn_line(lines[1])
    assert lines[1].startswith(b"x" * length + b',"torn"')


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"not a record\n",
        b'{"kind":"header","time":1.0}\n',
        sealed([b'{"kind":"scalar","time":1.0']),
        sealed([b'{"kind":"header"']),
        sealed([b'{"kind":"header","time":null']),
        sealed([b"[1"]),
        sealed([b'{"kind":"header","time":1.0'])[:-1],
        b"x" * 100_000,
    ],
)
def test_a_file_that_does_not_begin_with_a_header_began_at_no_time(tmp_path, content):
    (tmp_path / "x.jsonl").write_bytes(content)
    assert began(str(tmp_path / "x.jsonl")) is None


def test_a_folder_is_no_record(tmp_path):
    assert began(str(tmp_path)) is None
    with pytest.raises(IsADirectoryError):
        begun(str(tmp_path), "1.000")


def test_a_short_write_goes_on_until_the_system_says_why_not():
    class Narrow(io.FileIO):
        def write(self, data):
            return super().write(data[:3])

    with Narrow("/dev/null", "w") as file:
        write_all(file, b"0123456789")
    with io.FileIO("/dev/full", "w") as file, pytest.raises(OSError, match="No space left") as raised:
        write_all(file, b"0123456789")
    assert raised.value.errno == errno.ENOSPC
