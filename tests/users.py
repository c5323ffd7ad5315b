"""Runs work as another user of this machine, for real. Only root can, so tests that need it are skipped for others."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

import pytest

VICTIM, MALLORY = 61_001, 61_002  # that no account of this machine has

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become other users")


def begun_as(uid: int, work: Callable[[], object]) -> int:
    """Begin work as a user. Return the id of its process."""
    if pid := os.fork():
        return pid
    try:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def done_as(uid: int, work: Callable[[], object]) -> None:
    """Do work as a user, to its end."""
    _, status = os.waitpid(begun_as(uid, work), 0)
    assert status == 0, "the work failed: its traceback is above"


@contextmanager
def folder(mode: int, owner: int = 0) -> Iterator[Path]:
    """A folder that other users can reach. pytest's own folders are closed to them."""
    path = Path(tempfile.mkdtemp(prefix="users-"))
    try:
        os.chown(path, owner, owner)
        path.chmod(mode)
        yield path
    finally:
        rmtree(path)
