"""The simulated disk: what survives a power cut, and that it behaves like a file system otherwise."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest

from edgenode.storage.filesystem import REAL_DISK, Disk
from tests.simulation.fake_disk import PowerCut, SimulatedDisk


def crashed(disk: SimulatedDisk, seeds: int) -> Iterator[SimulatedDisk]:
    for seed in range(seeds):
        after = deepcopy(disk)
        after.crash(random.Random(seed))
        yield after


def outcomes(disk: SimulatedDisk, *paths: str) -> set[tuple[bytes | None, ...]]:
    """The contents of the files after each of many crashes, None for a missing file."""
    return {tuple(content(after, path) for path in paths) for after in crashed(disk, 300)}


def content(disk: SimulatedDisk, path: str) -> bytes | None:
    try:
        return disk.read(Path(path))
    except FileNotFoundError:
        return None


def test_file_flushed_with_its_folder_survives() -> None:
    disk = SimulatedDisk()
    disk.write(Path("/a"), [b"whole"])
    disk.flush(Path("/a"))
    assert outcomes(disk, "/a") == {(None,), (b"whole",)}
    disk.flush(Path("/"))
    assert outcomes(disk, "/a") == {(b"whole",)}


def test_unflushed_write_may_be_torn() -> None:
    disk = SimulatedDisk()
    disk.write(Path("/a"), [b"old"])
    disk.flush(Path("/a"))
    disk.flush(Path("/"))
    disk.write(Path("/a"), [b"newer"])
    seen = {text for (text,) in outcomes(disk, "/a")}
    assert {b"old", b"newer", b"", b"new", b"new\0\0"} <= seen
    assert len(seen) > 20  # garbage


def test_changes_of_names_survive_independently() -> None:
    disk = SimulatedDisk()
    for name in ("a", "b"):
        disk.write(Path("/", name), [name.encode()])
        disk.flush(Path("/", name))
    disk.flush(Path("/"))
    disk.rename(Path("/a"), Path("/c"))
    disk.rename(Path("/b"), Path("/a"))
    assert outcomes(disk, "/a", "/b", "/c") == {
        (b"a", b"b", None),
        (None, b"b", b"a"),
        (b"b", None, None),  # the second rename without the first replaces a
        (b"b", None, b"a"),
    }


def test_removed_folder_may_return_with_some_of_its_files() -> None:
    disk = SimulatedDisk()
    disk.make_folder(Path("/f"))
    for path in ("/f/a", "/f/b"):
        disk.write(Path(path), [b"x"])
        disk.flush(Path(path))
    disk.flush(Path("/f"))
    disk.flush(Path("/"))
    disk.remove(Path("/f"))
    assert content(disk, "/f/a") is None
    assert outcomes(disk, "/f/a", "/f/b") == {(a, b) for a in (None, b"x") for b in (None, b"x")}


def test_disk_without_power_fails_until_it_is_on_again() -> None:
    disk = SimulatedDisk()
    disk.fail_after(1)
    disk.write(Path("/a"), [b"a"])
    for _ in range(2):
        with pytest.raises(PowerCut):
            disk.flush(Path("/"))
        with pytest.raises(PowerCut):
            disk.read(Path("/a"))
        with pytest.raises(PowerCut):
            disk.names(Path("/"))
    disk.fail_after(None)
    assert disk.read(Path("/a")) == b"a"
    disk.flush(Path("/"))


@pytest.mark.parametrize("disk", [SimulatedDisk(), REAL_DISK], ids=["simulated", "real"])
def test_simulated_disk_behaves_like_a_file_system(disk: Disk, tmp_path: Path) -> None:
    disk.make_folder(tmp_path / "f" / "g")
    disk.make_folder(tmp_path / "f")
    disk.write(tmp_path / "f" / "a", [b"abc"])
    disk.write(tmp_path / "f" / "g" / "h", [b""])
    a, g, none = tmp_path / "f" / "a", tmp_path / "f" / "g", tmp_path / "f" / "none"
    impossible = [
        (errno.ENOENT, lambda: disk.write(none / "a", [b""])),
        (errno.ENOENT, lambda: disk.flush(none)),
        (errno.ENOENT, lambda: disk.read(none)),
        (errno.ENOENT, lambda: disk.rename(none, a)),
        (errno.ENOTDIR, lambda: disk.make_folder(a / "b")),
        (errno.ENOTDIR, lambda: disk.names(a)),
        (errno.ENOTDIR, lambda: disk.remove(a)),
        (errno.EISDIR, lambda: disk.write(g, [b""])),
        (errno.EISDIR, lambda: disk.read(g)),
        (errno.EISDIR, lambda: disk.rename(a, g)),
        (errno.ENOTDIR, lambda: disk.rename(g, a)),
    ]
    for code, act in impossible:
        with pytest.raises(OSError) as caught:
            act()
        assert caught.value.errno == code
    disk.make_folder(tmp_path / "f" / "k")
    disk.write(tmp_path / "f" / "k" / "l", [b""])
    with pytest.raises(OSError, match="not empty"):
        disk.rename(tmp_path / "f" / "k", g)
    disk.remove(g)
    disk.rename(tmp_path / "f" / "k", g)
    disk.rename(a, tmp_path / "f" / "b")
    disk.write(a, [b"d"])
    disk.rename(a, tmp_path / "f" / "b")
    assert sorted(disk.names(tmp_path / "f")) == ["b", "g"]
    assert disk.names(g) == ["l"]
    assert disk.read(tmp_path / "f" / "b") == b"d"
    disk.remove(none)
    assert disk.names(none) == []


def test_full_disk_keeps_what_fits() -> None:
    disk = SimulatedDisk(capacity=4)
    disk.write(Path("a"), [b"abc"])
    with pytest.raises(OSError, match="No space left"):
        disk.write(Path("b"), [b"de"])
    assert disk.read(Path("b")) == b"d"
    disk.write(Path("a"), [b"abc"])


def test_rename_across_folders_is_refused() -> None:
    disk = SimulatedDisk()
    disk.make_folder(Path("/f/g"))
    with pytest.raises(OSError, match="cross-device"):
        disk.rename(Path("/f/g"), Path("/g"))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EACCES, errno.EIO])
def test_flush_ignores_folders_that_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """It never ignores an error of the medium, nor an error of a file."""

    def failing(_: int) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / "a").touch()
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=os.strerror(code)):
        REAL_DISK.flush(tmp_path / "a")
    if code == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(code)):
            REAL_DISK.flush(tmp_path)
    else:
        REAL_DISK.flush(tmp_path)
