"""Replaces a file in a folder where others may write, too, such as /tmp or one of a group.

Somebody may have made files of any name there before, also links to files that only this user can change, and may
rename and remove what is made there. So the new content is written in a folder of this user alone, which is reached by
a descriptor. A link of another user in its place is refused, and never followed.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgenode.storage.filesystem import put_in_place

_NOT_OURS = (errno.ENOTDIR, errno.ELOOP, errno.EACCES)
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path for the new content of a file. After the body it takes the place of the old file, in one step, and
    is on the medium. If the body fails, the old file stays. The new one has the permissions that the umask gives.

    Raises:
        OSError: the disk does not accept it, or a folder of another user is in the way.
    """
    with _own_folder(path) as folder:
        draft = folder / path.name
        draft.touch()
        permissions = draft.stat().st_mode
        yield draft
        draft.chmod(permissions)
        put_in_place(draft, path)


def check_replaceable(path: Path) -> None:
    """Check that `replacing` can replace a file, or make it.

    Raises:
        OSError: it cannot.
    """
    with _own_folder(path):
        pass
    if path.is_symlink() or path.exists():
        owners = {path.lstat().st_uid, path.parent.stat().st_uid}
        if path.parent.stat().st_mode & stat.S_ISVTX and os.geteuid() not in {0, *owners}:
            raise PermissionError(None, "it belongs to another user, and in this folder only its owner can replace it")


@contextmanager
def _own_folder(path: Path) -> Iterator[Path]:
    """Make an empty folder beside a file, which only this user can enter. It is removed after the body."""
    place = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # left over from a process that was killed, or planted
        place.mkdir(mode=0o700)
    try:
        handle = os.open(place, _OPEN)
    except OSError as exc:
        if exc.errno not in _NOT_OURS:
            raise
        raise PermissionError(None, f"{place} is in the way, and no folder of this user: remove it") from exc
    try:
        found = os.fstat(handle)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(None, f"{place} is in the way, and others can enter it: remove it")
        folder = Path(f"/proc/self/fd/{handle}") if sys.platform == "linux" else place
        _empty(folder)
        try:
            yield folder
        finally:
            with suppress(OSError):
                _empty(folder)
                place.rmdir()
    finally:
        os.close(handle)


def _empty(folder: Path) -> None:
    for left in folder.iterdir():
        left.unlink()
