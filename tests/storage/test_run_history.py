"""The history of runs: bounded, thinned evenly, continued after a restart, and safe from other files."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgenode.core.protocol.plan.plan import create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.status import COUNTERS, ClusterStatus, NodeState, NodeStatus, NodeView
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.errors import CheckpointError
from edgenode.evaluation import Metric
from edgenode.storage import run_history
from edgenode.storage.run_history import RESTARTED, Recorder, RunEvent, RunHistory, RunSoFar

PLAN = create_plan("home", [Member("n0"), Member("n1")], Schedule((GraphSpec("a"),), 1))
ABOUT = {
    "cluster": "home", "run_digest": "d", "algorithm": "scsp", "compressor": "topk-0.01-int8", "nodes": 2, "rounds": 9,
    "config": "",
}  # fmt: skip


def a_status(t: int, **changes: Any) -> ClusterStatus:
    n0 = NodeView("n0", status=NodeStatus(**{"state": NodeState.RUNNING, "round": t, "accuracy": t / 100} | changes))
    n1 = NodeView("n1", status=replace(n0.status, round=t + 2, accuracy=None))
    return ClusterStatus("home", plan=PLAN, nodes=(n0, n1), consensus_distance=0.5)


def record(recorder: Recorder, moments: int, first: int = 0) -> None:
    for i in range(first, first + moments):
        recorder.note(a_status(i), now=recorder._began + i * 1e6)  # always due


def test_counts_beyond_sqlite_do_not_end_the_history(tmp_path: Path) -> None:
    kept = RunHistory(tmp_path)
    recorder = Recorder(kept, ABOUT)
    recorder.note(a_status(1, payload_bytes=1 << 63, dense_bytes=1 << 64), now=recorder._began)
    assert kept.curve(recorder.run)[0]["dense_bytes"] == (1 << 63) - 1
    assert kept.last(recorder.run)["n0"]["payload_bytes"] == (1 << 63) - 1


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


def test_named_metrics_are_recorded_with_a_curve_of_the_test_loss(tmp_path: Path) -> None:
    kept = RunHistory(tmp_path)
    recorder = Recorder(kept, ABOUT)
    metrics = (Metric("loss", 2.5), Metric("perplexity", 12.2))
    recorder.note(a_status(1, accuracy=None, metrics=metrics), now=recorder._began)
    assert json.loads(kept.samples(recorder.run)[0]["metrics"]) == {"loss": 2.5, "perplexity": 12.2}
    assert [(c["accuracy"], c["test_loss"]) for c in kept.curve(recorder.run)] == [(None, 2.5)]


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


def test_last_moment_is_kept_however_long_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_history, "_TICKS", 4)
    for moments in range(9):
        recorder = Recorder(RunHistory(tmp_path), ABOUT)
        record(recorder, moments)
        recorder.end(a_status(999, accuracy=0.975), "done")
        curve = RunHistory(tmp_path).curve(recorder.run)
        assert (curve[-1]["round"], curve[-1]["accuracy"], len(curve) <= 4) == (999, 0.975, True)


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
    assert Recorder(RunHistory(tmp_path), ABOUT).run > first.run


def test_stopped_run_that_resumes_is_one_run_without_the_pause(tmp_path: Path) -> None:
    first = Recorder(RunHistory(tmp_path), ABOUT)
    record(first, 3)
    first.end(a_status(3), "stopped")
    again = Recorder(RunHistory(tmp_path), ABOUT, resumed=True)
    (run,) = RunHistory(tmp_path).runs()
    assert (run["ended"], run["outcome"]) == (None, None)
    assert again.so_far == RunSoFar(3, -1, False, {node: dict.fromkeys(COUNTERS, 0) for node in ("n0", "n1")})
    ran_s = run["ran_s"]
    again.note(a_status(4))
    again.end(a_status(9), "done")
    (run,) = RunHistory(tmp_path).runs()
    assert (run["outcome"], ran_s <= run["ran_s"] < ran_s + 60) == ("done", True)


def test_long_run_is_recorded_as_rarely_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_history, "_TICKS", 16)
    first = Recorder(RunHistory(tmp_path), ABOUT)
    first.note(a_status(0), now=first._began + 1000)
    assert Recorder(RunHistory(tmp_path), ABOUT, resumed=True)._every_s == 64


# --- the round and the bytes do not fall


def test_bytes_of_a_node_that_left_stay_in_the_sums(tmp_path: Path) -> None:
    recorder = Recorder(RunHistory(tmp_path), ABOUT)
    both = a_status(5, payload_bytes=700, dense_bytes=7000)
    recorder.note(both, now=recorder._began)
    alone = replace(both, nodes=both.nodes[:1], departed_payload_bytes=700, departed_dense_bytes=7000)
    recorder.note(alone, now=recorder._began + 1e6)
    curve = RunHistory(tmp_path).curve(recorder.run)
    assert [(c["payload_bytes"], c["dense_bytes"]) for c in curve] == [(1400, 14000)] * 2
    assert RunHistory(tmp_path).last(recorder.run)["n1"]["payload_bytes"] == 700
    assert Recorder(RunHistory(tmp_path), ABOUT, resumed=True).so_far.counts["n1"]["payload_bytes"] == 700


def test_last_figures_are_the_last_known_ones(tmp_path: Path) -> None:
    recorder = Recorder(RunHistory(tmp_path), ABOUT)
    record(recorder, 3)
    recorder.note(a_status(7, accuracy=None, loss=0.5), now=recorder._began + 1e9)
    last = RunHistory(tmp_path).last(recorder.run)["n0"]
    assert (last["round"], last["accuracy"], last["loss"]) == (7, 0.02, 0.5)


def test_node_that_has_not_reported_has_no_figures_but_its_counts(tmp_path: Path) -> None:
    recorder = Recorder(RunHistory(tmp_path), ABOUT)
    record(recorder, 3)
    silent = NodeView("n1", status=NodeStatus(payload_bytes=700))  # after a restart of the controller
    recorder.note(replace(a_status(9), nodes=(silent,)), now=recorder._began + 1e9)
    last = RunHistory(tmp_path).last(recorder.run)["n1"]
    assert (last["round"], last["u"], last["payload_bytes"]) == (4, 0.0, 700)
    assert RunHistory(tmp_path).samples(recorder.run)[-1]["round"] is None


def test_replayed_rounds_replace_the_lost_ones(tmp_path: Path) -> None:
    recorder = Recorder(RunHistory(tmp_path), ABOUT)
    record(recorder, 9)
    recorder.note(a_status(4), [RunEvent(0, 4, RESTARTED, "")], now=recorder._began + 1e9)
    recorder.note(a_status(5), now=recorder._began + 2e9)
    assert [c["round"] for c in RunHistory(tmp_path).curve(recorder.run)] == [0, 1, 2, 3, 4, 4, 5]
    assert recorder._taken == 7


# --- events


def test_events_are_kept_in_order_and_the_oldest_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_history, "_EVENTS", 3)
    recorder = Recorder(RunHistory(tmp_path), ABOUT)
    for i in range(3):
        recorder.note(a_status(i), [RunEvent(100.0 + i, i, "joined", f"n{i}", i)], now=recorder._began)
    recorder.end(a_status(9), "done", [RunEvent(200.0, 9, "paused", "<b>")])
    events = RunHistory(tmp_path).events(recorder.run)
    assert [(e["at"], e["round"], e["kind"], e["text"]) for e in events] == [
        (101.0, 1, "joined", "n1"), (102.0, 2, "joined", "n2"), (200.0, 9, "paused", "<b>"),
    ]  # fmt: skip
    assert len(RunHistory(tmp_path).events(recorder.run, most=1)) == 1
    so_far = Recorder(RunHistory(tmp_path), ABOUT, resumed=True).so_far
    assert (so_far.record, so_far.paused) == (2, True)


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
    with pytest.raises(CheckpointError, match="it is not a history of format 4"):
        Recorder(RunHistory(tmp_path), ABOUT)
