import math
from decimal import Decimal
from pathlib import Path

import pytest

from logitwatch.sinks.records import read_jsonl
from logitwatch.sinks.rewinding import misfit, move_tail, replayed_path
from logitwatch.sinks.seals import sealed
from logitwatch.sinks.sessions import begun, write_all


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "x.jsonl"
    file, opening = begun(str(path), "5.250")
    with file:
        write_all(
            file, opening + sealed([b'{"kind":"scalar","tag":"a","step":%d,"value":0.5' % step for step in (1, 2)])
        )
    return path


def replayed(path):
    return Path(replayed_path(str(path)))


def line_ends(path):
    data = path.read_bytes()
    return [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]


def test_a_position_at_the_end_of_a_line_fits_and_no_other(record):
    ends = line_ends(record)
    fitting = [
        offset for offset in range(1, ends[-1] + 5) if not misfit(str(record), {"offset": offset, "began": 5.25})
    ]
    assert fitting == ends


@pytest.mark.parametrize(
    "position",
    [
        None,
        [],
        "position",
        {},
        {"offset": 1},
        {"began": 5.25},
        {"offset": -1, "began": 5.25},
        {"offset": 0, "began": 5.25},
        {"offset": True, "began": 5.25},
        {"offset": 1.0, "began": 5.25},
        {"offset": "1", "began": 5.25},
        {"offset": 1, "began": "5.25"},
        {"offset": 1, "began": None},
        {"offset": 1, "began": Decimal("5.25")},
        {"offset": 1, "began": math.nan},
        {"offset": 10**400, "began": 5.25},
        {"offset": 1, "began": 10**400},
    ],
)
def test_what_is_no_position_fits_nothing(record, position):
    assert misfit(str(record), position) != ""


def test_the_reason_is_told(record):
    end = line_ends(record)[-1]
    assert misfit(str(record), {"offset": end, "began": 6.0}) == "the file began at 5.25, not at 6.0"
    assert misfit(str(record), {"offset": end + 1, "began": 5.25}) == f"the file has {end} bytes, fewer than {end + 1}"
    assert misfit(str(record), {"offset": end - 1, "began": 5.25}) == f"no line ends at byte {end - 1}"


def test_nothing_is_lost_whenever_a_tail_is_moved(record):
    ends = line_ends(record)
    whole = record.read_bytes()
    for end in reversed(ends):
        move_tail(str(record), end)
    assert record.read_bytes() == whole[: ends[0]]
    moved = list(read_jsonl(replayed(record)))
    assert [line.get("step") for line in moved] == [None, 2, None, 1]


def test_a_torn_tail_is_moved_with_the_rest_and_closed_by_the_next(record):
    ends = line_ends(record)
    with record.open("ab") as file:
        file.write(b'{"kind":"sca')
    move_tail(str(record), ends[1])
    assert replayed(record).read_bytes().endswith(b'{"kind":"sca')
    move_tail(str(record), ends[0])
    assert [line.get("step") for line in read_jsonl(replayed(record))] == [None, 2, None, 1]


def test_a_tail_that_cannot_be_copied_stays_where_it_is(record, tmp_path):
    (tmp_path / "x.replayed.jsonl").mkdir()
    before = record.read_bytes()
    with pytest.raises(IsADirectoryError):
        move_tail(str(record), line_ends(record)[0])
    assert record.read_bytes() == before


def test_a_tail_of_many_blocks_is_moved_whole(record):
    end = line_ends(record)[-1]
    tail = sealed([b'{"kind":"text","tag":"t","step":1,"markdown":"%s"' % (b"x" * 100_000)] * 30)
    with record.open("ab") as file:
        file.write(tail)
    move_tail(str(record), end)
    assert replayed(record).read_bytes().endswith(tail)
    assert line_ends(record)[-1] == end
