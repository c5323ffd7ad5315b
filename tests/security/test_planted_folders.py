"""Folders that another user has made for a key or a daemon, in a folder where several may. The users are real."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edgenode.errors import SecurityError
from edgenode.security.certificates import make_authority
from edgenode.security.secret_files import write_credentials
from edgenode.storage.audit_log import AuditLog
from edgenode.storage.state_folder import claimed
from tests.users import MALLORY, VICTIM, as_root, done_as, folder

pytestmark = as_root


@pytest.mark.parametrize("user", [0, VICTIM])
@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o775])
@pytest.mark.parametrize("kind", ["folder", "folder above", "link", "folder behind a link"])
def test_folder_that_another_user_has_planted_is_refused(user: int, mode: int, kind: str) -> None:
    def plant() -> None:
        os.umask(0)
        if kind == "link":
            place.symlink_to(mine)
        else:
            place.mkdir()

    def use() -> None:
        path = {"folder above": place / "pi-1", "folder behind a link": mine / "link"}.get(kind, place)
        if kind == "folder behind a link":
            path.symlink_to(place)
        with pytest.raises(SecurityError, match=f"another user has made {place}, where several may"):
            write_credentials(path / "credentials.pem", make_authority("home"))
        with (
            pytest.raises(SecurityError, match=f"another user has made {place}, where several may"),
            claimed(path, "n"),
        ):
            pass

    with folder(mode) as shared, folder(0o700, user) as mine:
        os.chown(shared, 0, MALLORY)
        place = shared / "state"
        done_as(MALLORY, plant)
        done_as(user, use)
        assert [path for top in (mine, place) for path in top.rglob("*") if path.is_file()] == []


def test_folder_that_is_open_to_others_is_refused_before_it_is_used() -> None:
    with folder(0o777) as state:
        done_as(MALLORY, lambda: (state / "owner").symlink_to(state / "made"))
        with pytest.raises(SecurityError, match="others can enter"), claimed(state, "n"):
            pass
        assert not (state / "made").exists()


def test_own_folder_among_those_of_others_is_used() -> None:
    def use() -> None:
        with claimed(shared / "state", "n"):
            write_credentials(shared / "state" / "credentials.pem", make_authority("home"))

    with folder(0o1777) as shared:
        done_as(VICTIM, use)
        assert mode_of(shared / "state" / "credentials.pem") == (VICTIM, 0o600)


def test_umask_that_allows_everything_opens_no_state_folder() -> None:
    """The files of databases, and those that libraries write, have the modes of the umask."""

    def use() -> None:
        os.umask(0)
        with claimed(state, "n"):
            write_credentials(state / "authority" / "credentials.pem", make_authority("home"))
            AuditLog(state).begin("anna", "stop")

    def look() -> None:
        for path in (state / "history.sqlite3", state / "authority" / "credentials.pem", state / "owner"):
            with pytest.raises(PermissionError):
                path.read_bytes()
        with pytest.raises(PermissionError):
            (state / "new").touch()

    with folder(0o1777) as shared:
        state = shared / "cluster" / "node"
        done_as(VICTIM, use)
        assert (state / "history.sqlite3").exists()
        done_as(MALLORY, look)
        assert mode_of(state.parent) == mode_of(state) == mode_of(state / "authority") == (VICTIM, 0o700)


def test_root_writes_for_the_owner_of_a_folder_that_only_root_can_make() -> None:
    with folder(0o755) as above:
        state = above / "state"
        state.mkdir(mode=0o700)
        os.chown(state, VICTIM, VICTIM)
        write_credentials(state / "credentials.pem", make_authority("home"))
        assert mode_of(state / "credentials.pem") == (VICTIM, 0o600)


def mode_of(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, stat.S_IMODE(found.st_mode)
