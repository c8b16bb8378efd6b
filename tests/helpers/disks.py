"""Disks that are small, full or read-only: real ones, mounted for one test."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder, *options):
    """A file system of its own at ``folder``; options as in ``size=64k`` or ``ro``."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"mount is refused: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
