"""The tracker of an experiment has each run's measurements once, also if it failed before."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgenode.cli import group
from edgenode.errors import CheckpointError
from edgenode_lab.experiments.runner import OutcomeStore
from edgenode_lab.experiments.tracked import FILE, CurveTracking

TWO = (
    '[run]\nnodes = 2\nrounds = 4\n[task]\nbatch_size = 8\n[rows]\nsp = { algorithm.name = "sp" }\n'
    'd-psgd = { algorithm.name = "d-psgd" }\n'
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command takes signals for its own: it is meant to be a process."""
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)
    Path("two.toml").write_text(TWO)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(*words: str) -> Result:
    return CliRunner().invoke(group, ("experiment", "two.toml", "--jobs", "1", *words))


def events(board: str) -> dict[str, tuple[int, bytes]]:
    """By the folder of a run's node: the number of files, and what is in them."""
    folders = sorted(Path(board).iterdir())
    return {f.name: (len([*f.iterdir()]), b"".join(path.read_bytes() for path in f.iterdir())) for f in folders}


@pytest.mark.slow
def test_every_run_is_passed_on_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    tracked = ("--curves", "2", "--track", "tensorboard:board")
    assert run("--curves", "2", "--only", "sp").exit_code == 0  # one of them runs before anybody tracks
    Path("board").write_text("not a folder")
    failed = run(*tracked)
    assert failed.exit_code == 0, failed.output
    assert "warning: tracking stopped at sp-seed-0: " in failed.stderr
    assert failed.stderr.count("tracking stopped") == 1
    Path("board").unlink()
    assert "warning" not in run(*tracked).stderr
    first = events("board")
    assert [name.rpartition("-every-")[2] for name in first] == ["2-node-0", "2-node-1"] * 2
    assert {name.partition("-seed-0-")[0] for name in first} == {"sp", "d-psgd"}
    for files, content in first.values():
        assert files == 1
        assert content.count(b"consensus_distance") == 3  # after 0, 2 and 4 rounds
        assert b"bytes/sent" in content
    assert run(*tracked).exit_code == 0
    assert events("board") == first


def test_tracking_without_measurements_is_refused() -> None:
    pytest.importorskip("tensorboardX")
    result = run("--track", "tensorboard:board")
    assert result.exit_code == 2
    assert "--track needs --curves N, the rounds between two measurements" in result.output + str(result.exception)


@pytest.mark.parametrize("text", ["{", "3", "[3]"])
def test_damaged_record_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(CheckpointError, match=r"tracked.json cannot be read: .*; remove it to pass on all runs again"):
        CurveTracking("tensorboard:board", OutcomeStore(tmp_path, 2), tmp_path, print)
