"""The launches by the folder they were started in: commands there need neither address nor credentials.

A launch has a file in the user's state folder, and keeps it locked while it runs. A file without a lock is that of a
launch that has ended. The next launch in its folder removes it, and any launch if the results are deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

from edgenode.errors import SecurityError
from edgenode.security.secret_files import make_private_folder
from edgenode.storage.filesystem import default_state_dir

_FOLDER = ".launches"  # no cluster has such a name


@dataclass(frozen=True)
class Launch:
    """A launch.

    Attributes:
        controller: host:port.
        credentials: the file with the operator's key and certificate, in the state folder of the controller.
        again: the command that resumes it.
    """

    cluster: str
    controller: str
    credentials: Path
    again: str


@contextmanager
def noted(launch: Launch) -> Iterator[bool]:
    """Let commands in this folder find the launch, which ends with the body.

    Yields False if the user's state folder has no room.
    """
    path = _folder() / f"{_of_this_folder()}-{os.getpid()}.json"
    content = asdict(launch) | {"credentials": str(launch.credentials)}
    partial = path.with_suffix(".partial")
    try:
        make_private_folder(path.parent)
        _remove_old()
        file = partial.open("w", encoding="utf-8")
    except (OSError, SecurityError):
        yield False
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(content, file)
        file.flush()
        partial.rename(path)
        yield True


def launches_here() -> list[Launch]:
    """The launches that were started in this folder and still run."""
    return [launch for _, launch, runs in _notes(_of_this_folder()) if runs]


def ended_here() -> Launch | None:
    """The last launch that was started in this folder, if it has ended."""
    ended = [(path.stat().st_mtime, launch) for path, launch, runs in _notes(_of_this_folder()) if not runs]
    return max(ended, key=lambda pair: pair[0])[1] if ended else None


def _remove_old() -> None:
    for path, launch, runs in _notes(""):
        if not runs and (path.name.startswith(_of_this_folder()) or not launch.credentials.exists()):
            path.unlink(missing_ok=True)


def _notes(folder: str) -> Iterator[tuple[Path, Launch, bool]]:
    """The launches of a folder, or of all, with their files and whether they run."""
    with suppress(OSError):
        for path in sorted(_folder().glob(f"{folder}*.json")):
            with suppress(OSError, ValueError, KeyError, TypeError), path.open(encoding="utf-8") as file:
                found = json.load(file)
                texts = (str(found[key]) for key in ("cluster", "controller", "credentials", "again"))
                cluster, controller, credentials, again = texts
                yield path, Launch(cluster, controller, Path(credentials), again), _is_locked(file)


def _is_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _folder() -> Path:
    return default_state_dir("", "") / _FOLDER


def _of_this_folder() -> str:
    return sha256(str(Path.cwd().resolve()).encode()).hexdigest()[:16]
