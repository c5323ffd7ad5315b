"""The history of runs: bounded, thinned evenly, continued after a restart, and safe from other files."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgenode.core.protocol.plan import Member, create_plan
from edgenode.core.protocol.status import ClusterStatus, NodeStatus, NodeView
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import CheckpointError
from edgenode.storage import run_history
from edgenode.storage.run_history import Recorder, RunHistory

PLAN = create_plan("home", [Member("n0"), Member("n1")], Schedule((GraphSpec("a"),), 1))
ABOUT = {
    "cluster": "home", "run_digest": "d", "algorithm": "scsp", "compressor": "topk-0.01-int8", "nodes": 2, "rounds": 9,
    "config": "",
}  # fmt: skip


def a_status(t: int, **changes: Any) -> ClusterStatus:
    n0 = NodeView("n0", status=NodeStatus(**{"round": t, "accuracy": t / 100} | changes))
    n1 = NodeView("n1", status=replace(n0.status, round=t + 2, accuracy=None))
    return ClusterStatus("home", plan=PLAN, nodes=(n0, n1), consensus_distance=0.5)


def record(recorder: Recorder, moments: int, first: int = 0) -> None:
    for i in range(first, first + moments):
        recorder.note(a_status(i), now=recorder._began + i * 1e6)  # always due


def test_missing_history_has_no_runs_and_creates_no_file(tmp_path: Path) -> None:
    assert RunHistory(tmp_path).runs() == []
    assert list(tmp_path.iterdir()) == []


def test_run_is_recorded_with_samples_curve_and_outcome(tmp_path: Path) -> None:
    kept = RunHistory(tmp_path / "new")
    recorder = Recorder(kept, ABOUT)
    record(recorder, 3)
    recorder.end(a_status(9, loss=0.25), "done")
    (run,) = kept.runs()
    assert {k: run[k] for k in ABOUT} == ABOUT
    assert (run["outcome"], run["ended"] >= run["began"]) == ("done", True)
    samples = kept.samples(recorder.run)
    assert [(s["node"], s["round"], s["accuracy"]) for s in samples[:4]] == [
        ("n0", 0, 0.0), ("n1", 2, None), ("n0", 1, 0.01), ("n1", 3, None),
    ]  # fmt: skip
    curve = kept.curve(recorder.run)
    assert [(c["round"], c["accuracy"], c["graph"], c["consensus_distance"]) for c in curve][-1] == (9, 0.09, "a", 0.5)
    assert (len(curve), curve[-1]["loss"]) == (4, 0.25)


def test_moments_are_recorded_only_when_due(tmp_path: Path) -> None:
    recorder = Recorder(RunHistory(tmp_path), ABOUT)
    for i in range(1000):  # within one second
        recorder.note(a_status(i), now=recorder._began + i / 1000)
    assert len(RunHistory(tmp_path).curve(recorder.run)) == 1


def test_long_run_is_thinned_evenly_and_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_history, "_TICKS", 16)
    recorder = Recorder(RunHistory(tmp_path), ABOUT)
    record(recorder, 100)
    curve = RunHistory(tmp_path).curve(recorder.run)
    assert 8 <= len(curve) <= 16
    assert recorder._every_s > 4
    assert curve[0]["round"] == 0
    assert len(RunHistory(tmp_path).samples(recorder.run)) == 2 * len(curve)


def test_only_the_newest_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_history, "_RUNS", 3)
    for _ in range(5):
        record(Recorder(RunHistory(tmp_path), ABOUT), 1)
    assert [run["id"] for run in RunHistory(tmp_path).runs()] == [3, 4, 5]
    assert RunHistory(tmp_path).samples(1) == []


def test_restarted_controller_continues_its_own_run_only(tmp_path: Path) -> None:
    first = Recorder(RunHistory(tmp_path), ABOUT)
    record(first, 2)
    assert Recorder(RunHistory(tmp_path), {**ABOUT, "run_digest": "other"}, resumed=True).run != first.run
    again = Recorder(RunHistory(tmp_path), ABOUT, resumed=True)
    assert again.run == first.run
    record(again, 2, first=2)
    again.end(a_status(9), "done")
    assert [c["round"] for c in RunHistory(tmp_path).curve(first.run)] == [0, 1, 2, 3, 9]
    assert Recorder(RunHistory(tmp_path), ABOUT, resumed=True).run > first.run
    assert Recorder(RunHistory(tmp_path), ABOUT).run > first.run


def test_file_that_is_not_a_history_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / run_history.NAME
    path.write_bytes(b"not a database, but longer than the header of one, which is a hundred bytes long" * 3)
    with pytest.raises(CheckpointError, match=r"history\.sqlite3: file is not a database; remove it"):
        RunHistory(tmp_path).runs()
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 9")
        database.execute("CREATE TABLE other (x)")
        database.commit()
    with pytest.raises(CheckpointError, match="it is not a history of format 1"):
        Recorder(RunHistory(tmp_path), ABOUT)
