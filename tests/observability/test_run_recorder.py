"""The run recorder writes outside the event loop, and everything is written when the run ends."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from edgenode.config.schema import Config
from edgenode.core.protocol.plan import Member, create_plan
from edgenode.core.protocol.status import ClusterStatus, NodeState, NodeStatus, NodeView
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.observability import run_recorder
from edgenode.observability.run_recorder import RunRecorder
from edgenode.storage.run_history import Recorder, RunHistory

PLAN = create_plan("home", [Member("n0")], Schedule((GraphSpec("a"),), 1))


class SlowDisk:
    """A disk whose next write lasts until it is allowed to finish."""

    def __init__(self) -> None:
        self.begun, self.may_finish = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.begun.set()
        self.may_finish.wait(5)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    disk, note = SlowDisk(), Recorder.note

    def slow(recorder: Recorder, status: ClusterStatus) -> None:
        disk.wait()
        note(recorder, status)

    monkeypatch.setattr(Recorder, "note", slow)
    monkeypatch.setattr(run_recorder, "_SAMPLE_EVERY_S", 0.01)
    return disk


async def test_end_waits_for_a_write_and_the_event_loop_for_none(tmp_path: Path, disk: SlowDisk) -> None:
    rounds = iter(range(1, 99))

    def status() -> ClusterStatus:
        node = NodeStatus(NodeState.RUNNING, round=next(rounds))
        return ClusterStatus("home", plan=PLAN, nodes=(NodeView("n0", status=node),))

    recorder = RunRecorder(Config(), 9, tmp_path, False, status)
    recording = asyncio.create_task(recorder.record())
    while not disk.begun.is_set():  # noqa: ASYNC110  (it is set in a thread)
        await asyncio.sleep(0.001)
    assert RunHistory(tmp_path).curve(1) == []  # the event loop continues during the write
    recording.cancel()
    ending = asyncio.create_task(recorder.end(ended_well=True))
    await asyncio.sleep(0.01)
    assert not ending.done()
    disk.may_finish.set()
    await ending
    (run,) = RunHistory(tmp_path).runs()
    assert run["outcome"] == "done"
    assert [sample["round"] for sample in RunHistory(tmp_path).samples(run["id"])] == [1, 2]
