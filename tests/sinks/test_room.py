import errno
import math
import os
import resource
import shutil

import pytest
from helpers.disks import small_disk

from logitwatch.sinks.room import RESERVE, require_room, room


def test_room_is_what_is_free_on_the_disk_of_the_file(tmp_path):
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        assert room(disk / "x.jsonl") == room(disk / "not" / "there" / "x.jsonl") == 2**20
        (disk / "taken").write_bytes(bytes(2**19))
        assert room(disk / "x.jsonl") == room(disk / "taken" / "below" / "a" / "file") == 2**19
    assert room(tmp_path / "x.jsonl") > 2**20


def test_room_is_not_more_than_the_limit_on_the_size_of_a_file_leaves(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(bytes(1000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        assert (room(file), room(tmp_path / "new"), room(tmp_path / "not" / "there")) == (49_000, 50_000, 50_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        assert room(file) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_room_is_infinite_where_it_cannot_be_known(monkeypatch):
    assert room("s3://bucket/x.jsonl") == math.inf

    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    assert room("x.jsonl") == math.inf


def test_room_in_a_working_directory_that_is_gone_raises_nothing(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert room("x.jsonl") > 0


def test_less_than_the_reserve_is_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", f"size={RESERVE + 4096}") as disk:
        require_room(disk / "x.jsonl")
        (disk / "taken").write_bytes(bytes(8192))
        with pytest.raises(OSError, match="less than 16 MiB left, 16773120 bytes: ") as raised:
            require_room(disk / "x.jsonl")
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == os.fspath(tmp_path / "disk" / "x.jsonl")
