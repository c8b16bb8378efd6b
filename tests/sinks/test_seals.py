import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitwatch.sinks.checksum import checksum_in_python
from logitwatch.sinks.seals import closing, holds_whole_line, is_torn_line, is_whole_line, sealed

BODIES = [b'{"a":1', b'{"b":"two words"', b"{"]


def test_a_line_ends_with_the_checksum_of_the_bytes_before_it():
    lines = sealed(BODIES).splitlines(keepends=True)
    for body, line in zip(BODIES, lines, strict=True):
        assert line == body + b',"crc":"%08x"}\n' % checksum_in_python(body)


@given(st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\n", b""))))
def test_every_sealed_line_is_whole(bodies):
    lines = sealed(bodies).split(b"\n")[:-1]
    assert len(lines) == len(bodies)
    assert all(is_whole_line(line + b"\n") for line in lines)


@pytest.mark.parametrize("cut", range(len(sealed(BODIES[1:2])) - 1))
def test_whatever_is_left_of_a_line_is_closed_as_torn(cut):
    remains = sealed(BODIES[1:2])[:cut]
    closed = remains + closing(remains)
    assert is_torn_line(closed) == (cut > 0)
    assert not is_whole_line(closed)
    assert not holds_whole_line(remains)


def test_a_line_that_lacks_its_newline_alone_gets_it():
    line = sealed(BODIES[:1])
    assert line[:-1] + closing(line[:-1]) == line


@pytest.mark.parametrize("bit", range(8))
def test_a_line_whose_newline_is_damaged_is_not_closed_as_torn(bit):
    first, second = sealed(BODIES[:1]), sealed(BODIES[1:2])
    for rest in (b"", second[:7], second[:-1]):
        remains = first[:-1] + bytes([ord("\n") ^ 1 << bit]) + rest
        assert holds_whole_line(remains)
        closed = remains + closing(remains)
        assert not is_torn_line(closed)
        assert not is_whole_line(closed)


def test_a_line_without_a_seal_is_neither():
    for line in (b"", b"\n", b"{}\n", b'{"a":1}\n'):
        assert not is_whole_line(line)
        assert not is_torn_line(line)
