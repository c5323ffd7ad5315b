"""Keys and certificates on disk, in a folder that only its owner can read.

A file is replaced in one step, so a power cut leaves the old content or the new. The key and its certificate lie in one
file, so they always fit each other.

All functions but `make_private_folder` raise SecurityError if the disk fails, if others can read or change a file or
have made its folder, or if its content is damaged.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgenode.errors import SecurityError
from edgenode.security.certificates import Credentials, check_issued

_KEY_END = b"-----END PRIVATE KEY-----\n"
_CERTIFICATE_END = b"-----END CERTIFICATE-----\n"


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter (0700), and the missing ones above it. Do nothing if it exists.

    Raises:
        OSError: it cannot be made, or is a file.
        SecurityError: another user may have made it for this one.
    """
    for parent in reversed(path.parents):
        if not parent.exists():
            parent.mkdir(mode=0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    _refuse_planted(path.absolute())
    _refuse_planted(path.resolve())


def _refuse_planted(path: Path) -> None:
    """Refuse a folder that another user has made, or leads to, in a folder where others may make them, such as /tmp."""
    for inner in (path, *path.parents[:-1]):
        outer = inner.parent.stat()
        trusted = {os.geteuid(), 0, *([] if outer.st_mode & stat.S_IWOTH else [outer.st_uid])}
        if outer.st_mode & (stat.S_IWOTH | stat.S_IWGRP) and inner.lstat().st_uid not in trusted:
            raise SecurityError(f"another user has made {inner}, where several may: choose another folder")


def check_private_folder(path: Path) -> None:
    """Check that only its owner can enter a folder, if it exists."""
    if path.is_dir() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise SecurityError(f"others can enter {path}: run chmod 700 {path}")


def write_secret(path: Path, content: bytes) -> None:
    """Replace a file that only its owner can read (0600), in a folder of that kind (0700). It is on the medium then."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        make_private_folder(path.parent)
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            _give_to_owner(file.fileno(), path.parent)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # some file systems cannot flush a folder
                os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as exc:
        raise SecurityError(f"{path} cannot be written: {exc.strerror or exc}") from exc


def _give_to_owner(file: int, folder: Path) -> None:
    """Let a file that root writes belong to the owner of its folder: a daemon of that user has to read it."""
    if os.geteuid() == 0:
        found = folder.stat()
        os.fchown(file, found.st_uid, found.st_gid)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file against other processes. Make the file if it is absent."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise SecurityError(f"{path} cannot be locked: {exc.strerror or exc}") from exc
    with os.fdopen(file, "wb"):
        _give_to_owner(file, path.parent)
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_secret(path: Path) -> bytes | None:
    """The content of a file, or None if it does not exist."""
    try:
        with path.open("rb") as file:
            _refuse_loose(path, os.fstat(file.fileno()))
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise SecurityError(f"{path} cannot be read: {exc.strerror or exc}") from exc


def kept_secret(path: Path) -> str:
    """The random secret in a file, made at the first call: 128 bits, in hex."""
    found = read_secret(path)
    if found is None:
        found = secrets.token_hex(16).encode()
        write_secret(path, found)
    return found.decode().strip()


def _refuse_loose(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid() and os.geteuid() != 0:
        raise SecurityError(f"{path} belongs to another user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise SecurityError(f"others can read {path}: run chmod 600 {path}")


def write_credentials(path: Path, credentials: Credentials) -> None:
    """Write a key, its certificate and the CA into one file."""
    write_secret(path, credentials.key + credentials.certificate + credentials.authority)


def is_due(path: Path, now: Callable[[], float] = time.time) -> bool:
    """Return whether a certificate in a file is to be renewed: two thirds of its life have passed.

    Its life begins when the file was written. A board that wrote it in 1970, before it knew the time, renews it soon.
    """
    credentials = read_credentials(path)
    if credentials is None:
        return True
    written = path.stat().st_mtime
    return now() - written >= (credentials.expires().timestamp() - written) * 2 / 3


def read_credentials(path: Path) -> Credentials | None:
    """Return the credentials that `write_credentials` wrote, or None if the file does not exist."""
    content = read_secret(path)
    if content is None:
        return None
    key, key_end, rest = content.partition(_KEY_END)
    certificate, certificate_end, authority = rest.partition(_CERTIFICATE_END)
    credentials = Credentials(key + key_end, certificate + certificate_end, authority)
    try:
        check_issued(credentials)
    except SecurityError as exc:
        raise SecurityError(f"{path} is damaged: {exc}") from exc
    return credentials
