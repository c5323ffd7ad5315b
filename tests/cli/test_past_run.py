"""A command that finds no controller names the run of this machine that is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgenode.cli.launched import Launch, noted
from edgenode.cli.past_run import past_launch, past_run
from edgenode.storage.filesystem import default_state_dir
from edgenode.storage.run_history import NAME, Recorder, RunHistory
from tests.storage.test_run_history import ABOUT, a_status


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default state folder of the controller of cluster home, with a run that has ended."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGENODE_STATE_DIR", raising=False)
    folder = default_state_dir("home", "controller")
    Recorder(RunHistory(folder), ABOUT).end(a_status(9), "done")
    return folder


def test_finished_run_is_named_with_the_command_that_shows_it(folder: Path) -> None:
    text = past_run("home", None)
    assert text.startswith("the last run of home on this machine ended 20")
    assert text.endswith(f"(done): edgenode runs show last --state-dir {folder}")
    assert past_run(None, None) == text
    assert past_run("office", None) == ""


def test_folder_of_the_operators_credentials_is_read(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "elsewhere")
    assert past_run("home", None) == ""
    assert past_run("home", tmp_path / "elsewhere" / "operator.pem").endswith(str(tmp_path / "elsewhere"))


def test_run_that_has_not_ended_or_a_damaged_history_is_not_named(folder: Path) -> None:
    Recorder(RunHistory(folder), ABOUT)
    assert past_run("home", None) == ""
    (folder / NAME).write_text("not a history")
    assert past_run("home", None) == ""


@pytest.mark.parametrize("outcome", ["done", "stopped", "failed", ""])
def test_launch_that_has_ended_is_named_with_what_can_follow(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert past_launch(None) == ""
    recorder = Recorder(RunHistory(folder), ABOUT)
    if outcome:
        recorder.end(a_status(9), outcome)
    else:
        recorder.note(a_status(9))
    credentials, again = folder / "operator.pem", "edgenode launch --out runs/mine train.py"
    credentials.touch()
    with noted(Launch("home", "127.0.0.1:7700", credentials, again)):
        assert past_launch(None) == ""
    follows = (
        f"look at it: edgenode runs show last --state-dir {folder}" if outcome == "done" else f"resume it: {again}"
    )
    assert past_launch(None) == (
        f"the launch in this folder has ended ({outcome or 'interrupted'} in round 9); to {follows}; for another "
        "cluster, pass --cluster NAME"
    )
    assert (past_launch("home"), past_launch("office")) == (past_launch(None), "")
    credentials.unlink()
    assert past_launch(None) == ""
