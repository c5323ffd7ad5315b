"""A state folder is claimed by one daemon, and refused before a run if it cannot be used."""

from __future__ import annotations

import errno
import fcntl
import stat
import subprocess
from pathlib import Path

import pytest

from edgenode.errors import ConfigError, SecurityError
from edgenode.storage.state_folder import OWNER, claimed, claimed_for_good


def refused(folder: Path, owner: str = "node a") -> str:
    with pytest.raises(ConfigError) as caught, claimed(folder, owner):
        pass
    return str(caught.value)


def test_folder_is_made_and_names_its_owner(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    for _ in range(2):
        with claimed(folder, "node a"):
            assert (folder / OWNER).read_text() == "node a\n"


def test_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    with claimed(folder, "node a"):
        assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)] == [0o700, 0o700]


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701, 0o770])
def test_folder_that_is_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(mode)
    remedy = f"chmod 700 {folder}"
    with pytest.raises(SecurityError, match=f"others can enter {folder}: run {remedy}"), claimed(folder, "node a"):
        pass
    subprocess.run(remedy.split(), check=True)
    with claimed(folder, "node a"):
        pass


def test_folder_of_another_daemon_is_kept(tmp_path: Path) -> None:
    with claimed(tmp_path, "node a"):
        pass
    assert refused(tmp_path, "node b") == (
        f"--state-dir {tmp_path} belongs to node a, and this is node b: choose another, or remove its file owner"
    )
    assert (tmp_path / OWNER).read_text() == "node a\n"


def test_folder_has_one_process_at_a_time(tmp_path: Path) -> None:
    with claimed(tmp_path, "node a"):
        assert refused(tmp_path) == f"--state-dir {tmp_path} is in use by another process: choose another"


@pytest.mark.parametrize("path", ["file", "file/below", "state/checkpoints"])
def test_file_in_place_of_a_folder_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "file").write_text("")
    (tmp_path / "state" / "checkpoints").write_text("")
    folder = tmp_path / ("state" if path.startswith("state") else path)
    assert refused(folder) == f"--state-dir {tmp_path / path} cannot be used: it, or a folder above it, is a file"


@pytest.mark.parametrize("blocked", [OWNER, ".probe"])
def test_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    (tmp_path / "checkpoints").mkdir()
    real = Path.open

    def opened(path: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        if path.name == blocked and mode != "r":
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, mode, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", opened)
    folder = tmp_path if blocked == OWNER else tmp_path / "checkpoints"
    assert refused(tmp_path) == f"--state-dir {folder} cannot be written: Read-only file system"
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_file_system_without_locks_is_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with claimed(tmp_path, "node a"):
        pass


@pytest.mark.parametrize("exists", [False, True])
def test_refused_start_leaves_a_folder_as_it_was(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "new" / "controller"
    if exists:
        with claimed(folder, "a controller"):
            (folder / "notes").write_text("kept")
    with pytest.raises(ConfigError, match="refused"), claimed_for_good(folder, "a controller"):
        (folder / "authority").mkdir()
        (folder / "authority" / "key").write_text("key")
        (folder / "operator.pem").write_text("pem")
        raise ConfigError("refused")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == (["notes", OWNER] if exists else [])
    assert (tmp_path / "new").exists() == exists


def test_start_that_is_not_refused_keeps_its_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), claimed_for_good(tmp_path, "a controller") as keep:
        (tmp_path / "operator.pem").write_text("pem")
        keep()
        raise ConfigError("later")
    assert (tmp_path / "operator.pem").exists()
