"""Checks the state folder of a daemon before a run begins: it is writable, and belongs to this daemon only.

It holds keys, models and messages, so only its owner may enter it (0700).

A folder that fails later would fail when the node is a member and others wait for it. The file ``owner`` holds the name
of the daemon that the folder belongs to. A running daemon keeps it locked.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from edgenode.errors import ConfigError
from edgenode.security.secret_files import check_private_folder, make_private_folder

OWNER, CHECKPOINTS = "owner", "checkpoints"
_LONGEST_OWNER = 200


@contextmanager
def claimed(folder: Path, owner: str) -> Iterator[None]:
    """Make a folder if it is absent, and claim it during the body.

    Args:
        owner: the kind of the daemon and its name.

    Raises:
        ConfigError: the folder cannot be used. The text gives the reason.
        SecurityError: others can enter it, or have made it.
    """
    with _translated(folder):
        make_private_folder(folder)
        check_private_folder(folder)
        file = (folder / OWNER).open("a+", encoding="utf-8", errors="replace")
    with file:
        _lock(file, folder)
        file.seek(0)
        found = file.read(_LONGEST_OWNER).strip()
        if found not in ("", owner):
            raise ConfigError(
                f"--state-dir {folder} belongs to {ascii(found)[1:-1]}, and this is {owner}: "
                f"choose another, or remove its file {OWNER}"
            )
        with _translated(folder):
            file.truncate(0)
            file.write(f"{owner}\n")
            file.flush()
            os.fsync(file.fileno())
        if (checkpoints := folder / CHECKPOINTS).exists():
            _check_writable(checkpoints)
        yield


@contextmanager
def claimed_for_good(folder: Path, owner: str) -> Iterator[Callable[[], None]]:
    """Claim a folder as `claimed` does. Yields a function: if the body fails before it calls it, all that the body has
    put into the folder is removed again, and the folder itself if it is new.

    Raises:
        EdgenodeError: as `claimed`.
    """
    made = [path for path in (folder.absolute(), *folder.absolute().parents) if not path.exists()]
    keeps = False

    def keep() -> None:
        nonlocal keeps
        keeps = True

    with claimed(folder, owner):
        before = {*folder.iterdir()} - ({folder / OWNER} if made else set())
        try:
            yield keep
        except BaseException:
            if not keeps:
                _remove({*folder.iterdir()} - before, made)
            raise


def _remove(paths: Iterable[Path], folders: Iterable[Path]) -> None:
    """Remove files and folders with their content, and then folders that are empty."""
    with suppress(OSError):  # the error of the body counts
        for path in paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for folder in folders:
            folder.rmdir()


def require_no_file(folder: Path) -> None:
    """Refuse a folder that can never be one, before anything is read from it or an invite is used up for it.

    Raises:
        ConfigError: it, or a folder above it, is a file.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    with _translated(folder):
        if not existing.is_dir():
            raise NotADirectoryError(str(existing))


def _lock(file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise ConfigError(f"--state-dir {folder} is in use by another process: choose another") from exc
    except OSError:  # a file system without locks
        return


def _check_writable(folder: Path) -> None:
    """Write a file and remove it. Permissions do not show a read-only or full file system."""
    probe = folder / ".probe"
    with _translated(folder):
        try:
            probe.write_bytes(b"probe")
        finally:
            with suppress(OSError):
                probe.unlink()


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError) as exc:
        raise ConfigError(f"--state-dir {folder} cannot be used: it, or a folder above it, is a file") from exc
    except OSError as exc:
        raise ConfigError(f"--state-dir {folder} cannot be written: {exc.strerror or exc}") from exc
