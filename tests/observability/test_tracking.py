"""Tracking, with the real packages: what is written for each node, and that a run never depends on it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from edgenode.config.schema import Config
from edgenode.config.sections import RunSection
from edgenode.core.protocol.status import ClusterStatus, NodeState, NodeStatus, NodeView
from edgenode.errors import ConfigError
from edgenode.evaluation import Metric
from edgenode.observability import tracking
from edgenode.observability.tracking import Tracker, Tracking, checked_target, open_tracker
from tests.e2e.fleet import until
from tests.net import peer_ends

CONFIG = Config(run=RunSection(cluster="home"))


def a_status(t: int, distance: float | None = None, state: NodeState = NodeState.RUNNING) -> ClusterStatus:
    status = NodeStatus(state, round=t, loss=1 / max(t, 1), u=1.0, payload_bytes=10 * t)
    return ClusterStatus("home", nodes=(NodeView("n0", status=status),), consensus_distance=distance, consensus_round=t)


class Recorder:
    """A tracker that keeps what it gets, or fails."""

    def __init__(self, fails: int = 0) -> None:
        self.fails, self.logged, self.closed = fails, list[tuple[str, int, dict[str, float]]](), list[bool]()

    def log(self, node: str, t: int, values: Mapping[str, float]) -> None:
        self.fails -= 1
        if self.fails >= 0:
            raise OSError("No space left on device")
        self.logged.append((node, t, dict(values)))

    def close(self, ended_well: bool) -> None:
        self.closed.append(ended_well)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # the state folder of `tracked`
    monkeypatch.setattr(tracking, "_SAMPLE_EVERY_S", 0.02)
    monkeypatch.setattr(tracking, "_BUSY_S", 0.2)
    monkeypatch.setattr(tracking, "_QUIET_S", 0.05)


async def tracked(
    tracker: Tracker,
    monkeypatch: pytest.MonkeyPatch,
    *statuses: ClusterStatus,
    until_warned: bool = False,
    resumed: bool = False,
    config: Config = CONFIG,
) -> list[Any]:
    """Track a run with these statuses, one after the other, and return what was logged."""
    monkeypatch.setattr(tracking, "open_tracker", lambda *_: tracker)
    current = list(statuses)
    with structlog.testing.capture_logs() as logs:
        tracker_of_run = Tracking(
            "wandb", config, Path.cwd(), lambda: current.pop(0) if len(current) > 1 else current[0], lambda: resumed
        )
        task = asyncio.create_task(tracker_of_run.run())
        await peer_ends.until(lambda: len(current) == 1 and (bool(logs) or not until_warned))
        await asyncio.sleep(0.6)  # the last status is sampled again and again, and its round is noted on the disk
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return logs


async def test_round_is_passed_on_once_and_without_unknown_values(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Recorder()
    done = a_status(6, 0.5, NodeState.DONE)
    assert not await tracked(tracker, monkeypatch, a_status(0), a_status(5), a_status(5), done)
    assert [(node, t) for node, t, _ in tracker.logged] == [("n0", 5), ("n0", 6), ("cluster", 6)]
    assert tracker.logged[0][2]["loss"] == 0.2 and "accuracy" not in tracker.logged[0][2]
    assert tracker.closed == [True]


async def test_rounds_that_a_resumed_run_repeats_are_not_passed_on_again(monkeypatch: pytest.MonkeyPatch) -> None:
    await tracked(Recorder(), monkeypatch, a_status(5), a_status(10))
    again = Recorder()
    await tracked(again, monkeypatch, *(a_status(t) for t in (8, 9, 10, 11)), resumed=True)
    assert [t for _, t, _ in again.logged] == [11]


@pytest.mark.parametrize(
    ("resumed", "config"), [(False, CONFIG), (True, Config(run=RunSection(cluster="home", seed=3)))]
)
async def test_new_run_in_the_folder_begins_anew(
    monkeypatch: pytest.MonkeyPatch, resumed: bool, config: Config
) -> None:
    await tracked(Recorder(), monkeypatch, a_status(10))
    other = Recorder()
    await tracked(other, monkeypatch, a_status(4), resumed=resumed, config=config)
    assert [t for _, t, _ in other.logged] == [4]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"of": 3}', '{"of": ["wandb", "home"], "ids": []}'])
async def test_broken_note_of_the_last_round_counts_as_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    await asyncio.to_thread(Path("tracking.json").write_text, text)
    tracker = Recorder()
    assert not await tracked(tracker, monkeypatch, a_status(4), resumed=True)
    assert [t for _, t, _ in tracker.logged] == [4]


async def test_named_metrics_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Recorder()
    tested = NodeStatus(round=5, accuracy=0.75, metrics=(Metric("auc", 0.75), Metric("return", -187.5)))
    await tracked(tracker, monkeypatch, ClusterStatus("home", nodes=(NodeView("n0", status=tested),)))
    _, _, values = tracker.logged[0]
    assert (values["accuracy"], values["test/auc"], values["test/return"]) == (0.75, 0.75, -187.5)


async def test_failure_is_logged_once_and_tracking_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Recorder(fails=2)
    logs = await tracked(tracker, monkeypatch, *(a_status(t) for t in range(1, 6)))
    assert [(entry["log_level"], entry["reason"]) for entry in logs] == [("warning", "No space left on device")]
    assert [t for _, t, _ in tracker.logged] == [3, 4, 5]
    assert tracker.closed == [False]


async def test_tracker_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Hangs(Recorder):
        def log(self, node: str, t: int, values: Mapping[str, float]) -> None:
            released.wait(30)

    hanging = tracked(Hangs(), monkeypatch, a_status(1), a_status(2), until_warned=True)
    logs = await asyncio.wait_for(hanging, 5)
    released.set()
    expected = ["tracking fails, and the run continues", "writing the last values to the tracker"]
    assert [entry["event"] for entry in logs] == expected


@pytest.mark.parametrize("target", ["tensorboard", "tensorboard:", "mlflow", "neptune:x", "wandb-x", ""])
def test_unknown_target_is_refused_with_the_choices(target: str) -> None:
    with pytest.raises(ConfigError, match="choose tensorboard:DIR, mlflow:URI, wandb or wandb:PROJECT"):
        checked_target(target)


@pytest.mark.parametrize(
    ("target", "package"), [("tensorboard:x", "tensorboardX"), ("mlflow:x", "mlflow"), ("wandb", "wandb")]
)
def test_missing_extra_is_named_with_the_remedy(target: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    extra = target.partition(":")[0]
    with pytest.raises(ConfigError, match=rf"tracking to {extra} needs {package}: pip install 'edgenode\[{extra}\]'"):
        checked_target(target)


def logged(
    target: str,
    folder: Path,
    ended_well: bool = True,
    ids: dict[str, str] | None = None,
    rounds: tuple[int, ...] = (5, 10),
) -> None:
    tracker = open_tracker(checked_target(target), CONFIG, folder, {} if ids is None else ids)
    for t in rounds:
        tracker.log("n0", t, {"loss": 1 / t, "bytes/sent": 10.0 * t})
    tracker.log("../../n1", rounds[-1], {"loss": 0.5})
    tracker.close(ended_well)


def test_tensorboard_has_a_folder_for_each_node(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    logged(f"tensorboard:{tmp_path / 'events'}", tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_dir()} == {"events", "n0", "n1"}
    (file,) = (tmp_path / "events" / "n0").glob("events.out.tfevents.*")
    data, events = file.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        events.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    values = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert values[:2] == [(5, "loss", pytest.approx(0.2)), (5, "bytes/sent", 50.0)]
    assert [step for step, *_ in values] == [5, 5, 10, 10]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of mlflow
@pytest.mark.parametrize(("ended_well", "status"), [(True, "FINISHED"), (False, "FAILED")])
def test_mlflow_has_a_run_for_each_node(tmp_path: Path, ended_well: bool, status: str) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    logged(f"mlflow:{uri}", tmp_path, ended_well)
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("home").experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {"n0": status, "../../n1": status}
    (run,) = (run for run in runs if run.info.run_name == "n0")
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "bytes/sent")] == [(5, 50), (10, 100)]
    assert run.data.params["run.nodes"] == str(CONFIG.run.nodes)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of wandb
def test_wandb_has_a_run_for_each_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    logged("wandb:boards", tmp_path)

    def written() -> list[bytes]:
        return [file.read_bytes() for file in (tmp_path / "wandb").glob("offline-run-*/*.wandb")]

    until(lambda: all(b"run.nodes" in run for run in written()), "the files of the runs")  # its service writes them
    assert len(written()) == 2
    assert all(b"boards" in run and b"home" in run for run in written())
    assert [b"bytes/sent" in run for run in written()].count(True) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"wandb"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of mlflow
def test_mlflow_continues_the_runs_that_are_there(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    uri, ids = f"sqlite:///{tmp_path / 'mlflow.db'}", dict[str, str]()
    logged(f"mlflow:{uri}", tmp_path, ended_well=False, ids=ids)
    client, before = MlflowClient(tracking_uri=uri), dict(ids)
    assert before.keys() == {"n0", "../../n1"}
    client.delete_run(before["../../n1"])
    logged(f"mlflow:{uri}", tmp_path, ids=ids, rounds=(15, 20))
    runs = client.search_runs([client.get_experiment_by_name("home").experiment_id])
    assert {run.info.run_id: run.info.status for run in runs} == dict.fromkeys(ids.values(), "FINISHED")
    assert (ids["n0"], ids["../../n1"]) == (before["n0"], ids["../../n1"])
    assert ids["../../n1"] != before["../../n1"], "it was deleted"
    assert [m.step for m in client.get_metric_history(ids["n0"], "loss")] == [5, 10, 15, 20]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of wandb
def test_wandb_continues_the_runs_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    ids = dict[str, str]()
    logged("wandb:boards", tmp_path, ended_well=False, ids=ids)
    (tmp_path / "again").mkdir()
    logged("wandb:boards", tmp_path / "again", ids=ids, rounds=(15, 20))
    for folder in (tmp_path, tmp_path / "again"):
        written = (folder / "wandb").glob("offline-run-*")
        assert {path.name.rpartition("-")[2] for path in written} == set(ids.values())
