"""The few things a checkpoint asks of a file system, so that a simulated one can take its place.

Nothing here flushes by itself: who writes decides what must be on the medium before what.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Protocol

# What PostgreSQL forgives a folder, too: one that we may not read is none we made; some file systems cannot flush one.
_NO_FLUSH_OF_FOLDERS = (errno.EACCES, errno.EBADF, errno.EINVAL)


class Disk(Protocol):
    """A file system. What was not flushed, a power cut may lose, tear or reorder. Every method may raise OSError."""

    def make_folder(self, path: Path) -> None:
        """Make a folder, and those above it; nothing if it is there."""

    def write(self, path: Path, content: bytes) -> None:
        """Make or replace a file."""

    def flush(self, path: Path) -> None:
        """Wait until the content of a file, or the names in a folder, are on the medium."""

    def rename(self, old: Path, new: Path) -> None:
        """Give something another name in the same folder, at once."""

    def remove(self, path: Path) -> None:
        """Remove a folder with all in it; nothing if it is absent."""

    def names(self, folder: Path) -> list[str]:
        """The names in a folder, in any order; none if it is absent."""
        ...

    def read(self, path: Path) -> bytes:
        """The content of a file."""
        ...


class RealDisk:
    """The file system of this machine."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)

    def flush(self, path: Path) -> None:
        try:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as exc:
            if exc.errno not in _NO_FLUSH_OF_FOLDERS or not path.is_dir():
                raise

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def remove(self, path: Path) -> None:
        if path.exists():
            shutil.rmtree(path)

    def names(self, folder: Path) -> list[str]:
        return [path.name for path in folder.iterdir()] if folder.exists() else []

    def read(self, path: Path) -> bytes:
        return path.read_bytes()


REAL_DISK = RealDisk()


def make_lasting(disk: Disk, folder: Path) -> None:
    """Make a folder such that its name, the names above it and those in it survive a power cut.

    Any of them may be new although it is there: of a process that died before it flushed them.
    """
    disk.make_folder(folder)
    for path in (folder, *folder.parents):
        disk.flush(path)
