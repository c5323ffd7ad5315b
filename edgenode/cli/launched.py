"""The launches that run now, by the folder they were started in: commands there need neither address nor credentials.

A running launch has a file in the user's state folder, and keeps it locked. A file without a lock is left over from a
launch that was killed. The next command in its folder removes it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from edgenode.errors import SecurityError
from edgenode.security.secret_files import make_private_folder
from edgenode.storage.filesystem import default_state_dir

_FOLDER = ".launches"  # no cluster has such a name


@dataclass(frozen=True)
class Launch:
    """A launch that runs.

    Attributes:
        controller: host:port.
        credentials: the file with the operator's key and certificate.
    """

    cluster: str
    controller: str
    credentials: Path


@contextmanager
def noted(launch: Launch) -> Iterator[bool]:
    """During the body, commands in this folder find the launch. Yields False if the user's state folder has no room."""
    path = _folder() / f"{_of_this_folder()}-{os.getpid()}.json"
    content = {"cluster": launch.cluster, "controller": launch.controller, "credentials": str(launch.credentials)}
    partial = path.with_suffix(".partial")
    try:
        make_private_folder(path.parent)
        file = partial.open("w", encoding="utf-8")
    except (OSError, SecurityError):
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            json.dump(content, file)
            file.flush()
            partial.rename(path)
            yield True
        finally:
            path.unlink(missing_ok=True)


def launches_here() -> list[Launch]:
    """The launches that were started in this folder and still run."""
    try:
        paths = sorted(_folder().glob(f"{_of_this_folder()}-*.json"))
    except OSError:
        return []
    return [launch for path in paths if (launch := _read(path)) is not None]


def _read(path: Path) -> Launch | None:
    with suppress(OSError, ValueError, KeyError, TypeError), path.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            found = json.load(file)
            return Launch(str(found["cluster"]), str(found["controller"]), Path(found["credentials"]))
        path.unlink(missing_ok=True)
    return None


def _folder() -> Path:
    return default_state_dir("", "") / _FOLDER


def _of_this_folder() -> str:
    return sha256(str(Path.cwd().resolve()).encode()).hexdigest()[:16]
