"""The file operations that checkpoints need. Tests replace the real disk by a simulated one.

No operation flushes by itself. The caller decides what must be on the medium before what.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

# PostgreSQL ignores these for folders too. A folder without read permission was not made by this process, and some file
# systems cannot flush a folder.
_SQLITE_CANTOPEN = 14  # sqlite3.SQLITE_CANTOPEN. Nodes do not import sqlite3
_FOLDER_CANNOT_BE_FLUSHED = (errno.EACCES, errno.EBADF, errno.EINVAL)


class Disk(Protocol):
    """A file system. A power cut may lose, tear or reorder what was not flushed. Every method may raise OSError."""

    def make_folder(self, path: Path) -> None:
        """Make a folder and its parents. Do nothing if it exists."""

    def write(self, path: Path, parts: Iterable[bytes | memoryview]) -> None:
        """Make or replace a file, part after part, so that the whole need not be in memory."""

    def flush(self, path: Path) -> None:
        """Wait until the content of a file, or the names in a folder, are on the medium."""

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file or folder within its folder, in one step."""

    def remove(self, path: Path) -> None:
        """Remove a folder and its content. Do nothing if it is absent."""

    def names(self, folder: Path) -> list[str]:
        """The names in a folder, in any order. Empty if the folder is absent."""
        ...

    def read(self, path: Path) -> bytes:
        """The content of a file."""
        ...


class RealDisk:
    """The file system of this machine."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, parts: Iterable[bytes | memoryview]) -> None:
        with path.open("wb") as file:
            for part in parts:
                file.write(part)

    def flush(self, path: Path) -> None:
        try:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as exc:
            if exc.errno not in _FOLDER_CANNOT_BE_FLUSHED or not path.is_dir():
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


def make_durable(disk: Disk, folder: Path) -> None:
    """Make a folder so that it, its parents and the names in it survive a power cut.

    Folders that exist are flushed too: the process that made them may have died before it flushed them.
    """
    disk.make_folder(folder)
    for path in (folder, *folder.parents):
        disk.flush(path)


def write_atomically(path: Path, text: str, disk: Disk = REAL_DISK) -> None:
    """Replace a text file. It holds the old text or the new one at any moment, and the new one when this returns."""
    scratch = path.with_name(f".{path.name}.partial")
    disk.write(scratch, [text.encode()])
    put_in_place(scratch, path, disk)


def put_in_place(scratch: Path, path: Path, disk: Disk = REAL_DISK) -> None:
    """Flush a file and rename it. The new name is on the medium when this returns."""
    # precaution: a file is flushed before it is renamed into place
    disk.flush(scratch)
    disk.rename(scratch, path)
    # precaution: the folder of a renamed file is flushed
    disk.flush(path.parent)


def default_state_dir(cluster: str, name: str) -> Path:
    """Return the default folder of a process's state, in the user's state folder."""
    import platformdirs

    return platformdirs.user_state_path("edgenode") / cluster / name


def lacks_files(error: Exception, path: Path) -> bool:
    """Return whether a write of a file failed because no file descriptor is free.

    SQLite does not say so: it cannot open a file, although this process may.
    """
    if (code := getattr(error, "sqlite_errorcode", None)) is not None:
        return (
            code == _SQLITE_CANTOPEN
            and os.access(path.parent, os.W_OK)
            and (not path.exists() or os.access(path, os.W_OK))
        )
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
