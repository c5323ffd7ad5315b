"""What other users of the machine can do to a file that is written where they may write, too. They are real users."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_IMODE

import pytest

from edgenode.errors import ConfigError
from edgenode.storage import model_file
from edgenode.storage.replacement import replacing
from tests.users import MALLORY, VICTIM, as_root, begun_as, done_as, folder

pytestmark = as_root


@pytest.fixture
def precious() -> Iterator[Path]:
    """A file of the victim, which nobody else can read."""
    with folder(0o700, VICTIM) as home:
        path = home / "precious"
        path.write_text("precious")
        path.chmod(0o600)
        os.chown(path, VICTIM, VICTIM)
        yield path


def scratch(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def written(path: Path) -> None:
    with replacing(path) as draft:
        draft.write_text("model")


@pytest.mark.parametrize("kind", ["link", "link to a folder", "file", "folder"])
def test_what_another_user_has_planted_is_not_used(kind: str, precious: Path) -> None:
    def plant() -> None:
        match kind:
            case "link":
                scratch(path).symlink_to(precious)
            case "link to a folder":
                scratch(path).symlink_to(precious.parent)
            case "file":
                scratch(path).touch(0o666)
            case "folder":
                scratch(path).mkdir(0o777)
                scratch(path).chmod(0o777)

    with folder(0o777) as shared:
        path = shared / "precious"
        done_as(MALLORY, plant)
        with pytest.raises(AssertionError):
            done_as(VICTIM, lambda: written(path))
        assert not path.exists()
    assert precious.read_text() == "precious"
    assert S_IMODE(precious.stat().st_mode) == 0o600


def test_user_who_renames_all_the_time_changes_no_other_file(precious: Path) -> None:
    """Where everybody may rename, the file is not safe. The victim's other files are."""

    def plant() -> None:
        signal.alarm(30)
        while True:
            with suppress(OSError):
                scratch(path).rename(scratch(path).with_name(f"gone-{os.urandom(4).hex()}"))
            with suppress(OSError):
                scratch(path).symlink_to(precious.parent)
            with suppress(OSError):
                scratch(path).unlink()

    def write() -> None:
        for _ in range(1500):
            with suppress(OSError):
                written(path)

    with folder(0o777) as shared:
        path = shared / "precious"
        mallory = begun_as(MALLORY, plant)
        done_as(VICTIM, write)
        os.kill(mallory, signal.SIGKILL)
        os.waitpid(mallory, 0)
    assert precious.read_text() == "precious"
    assert S_IMODE(precious.stat().st_mode) == 0o600


def test_file_that_only_its_owner_can_replace_is_refused_before_the_run() -> None:
    def check() -> None:
        with pytest.raises(ConfigError, match=r"--publish .* belongs to another user"):
            model_file.check_writable(path)

    with folder(0o1777) as shared:
        path = shared / "model.safetensors"
        done_as(MALLORY, path.touch)
        done_as(VICTIM, check)
        path.unlink()
        done_as(VICTIM, lambda: model_file.check_writable(path))
        done_as(VICTIM, lambda: written(path))
        assert path.read_text() == "model"
        assert list(shared.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "m"
    scratch(path).mkdir(0o700)
    (scratch(path) / ".tmp123").write_text("half")
    written(path)
    assert list(tmp_path.iterdir()) == [path]
