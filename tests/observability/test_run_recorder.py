"""The run recorder writes outside the event loop, and everything is written when the run ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from edgenode.config.schema import Config
from edgenode.core.protocol.plan.plan import Plan, create_plan
from edgenode.core.protocol.plan.record import Member
from edgenode.core.protocol.status import ClusterStatus, NodeState, NodeStatus, NodeView
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import Schedule
from edgenode.observability import run_recorder
from edgenode.observability.run_recorder import RunRecorder
from edgenode.storage.run_history import Recorder, RunEvent, RunHistory
from tests.net.descriptors import none_free

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

    def slow(recorder: Recorder, status: ClusterStatus, events: Sequence[RunEvent]) -> None:
        disk.wait()
        note(recorder, status, events)

    monkeypatch.setattr(Recorder, "note", slow)
    monkeypatch.setattr(run_recorder, "_SAMPLE_EVERY_S", 0.01)
    return disk


class Run:
    """A run of one node, which is a round further whenever its status is read."""

    def __init__(self, plan: Plan = PLAN, first: int = 0) -> None:
        self.state: Any = SimpleNamespace(plan=plan, rounds=9)
        self.round, self.paused, self.does = first, False, NodeState.RUNNING
        self.restored: list[tuple[int, Mapping[str, Mapping[str, int]]]] = []

    def status(self) -> ClusterStatus:
        self.round += self.does is NodeState.RUNNING
        node = NodeStatus(self.does, round=self.round, payload_bytes=100 * self.round)
        return ClusterStatus("home", plan=self.state.plan, nodes=(NodeView("n0", status=node),), paused=self.paused)

    def restore(self, reached: int, counts: Mapping[str, Mapping[str, int]]) -> None:
        self.restored.append((reached, counts))


async def recorded(folder: Path, run: Run, restarted: bool = False) -> None:
    """Record a run until its end, which comes at once."""
    await RunRecorder(Config(), folder, restarted, run).end(ended_well=True)


async def test_end_waits_for_a_write_and_the_event_loop_for_none(tmp_path: Path, disk: SlowDisk) -> None:
    recorder = RunRecorder(Config(), tmp_path, False, Run())
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
    assert len(RunHistory(tmp_path).samples(run["id"])) == 2
    assert [event["kind"] for event in recorder.events()] == ["started", "finished"]


async def test_pause_between_two_samples_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_recorder, "_SAMPLE_EVERY_S", 0.01)
    run = Run()
    recorder = RunRecorder(Config(), tmp_path, False, run)
    recorder.observe(run.state.plan, True)  # nothing is recorded yet
    recording = asyncio.create_task(recorder.record())
    while not run.restored:  # noqa: ASYNC110  (the history is opened in a thread)
        await asyncio.sleep(0.001)
    recording.cancel()
    recorder.observe(run.state.plan, True)
    recorder.observe(run.state.plan, True)
    recorder.observe(run.state.plan, False)
    await recorder.end(ended_well=True)
    assert [event["kind"] for event in recorder.events()] == ["started", "paused", "resumed", "finished"]


async def test_run_that_resumes_after_a_stop_is_recorded_as_one(tmp_path: Path) -> None:
    await recorded(tmp_path, Run(first=5))
    again = Run(Plan((PLAN.successor(6),)), first=6)
    await recorded(tmp_path, again)
    (run,) = RunHistory(tmp_path).runs()
    ((reached, counts),) = again.restored
    assert (reached, counts["n0"]["payload_bytes"]) == (0, 600)  # round 6 follows from its plan
    assert [event["kind"] for event in RunHistory(tmp_path).events(run["id"])] == [
        "started", "finished", "restarted", "finished",
    ]  # fmt: skip


async def test_run_that_is_extended_is_recorded_with_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_recorder, "_SAMPLE_EVERY_S", 0.01)
    run = Run()
    recorder = RunRecorder(Config(), tmp_path, False, run)
    recording = asyncio.create_task(recorder.record())
    while not run.restored:  # noqa: ASYNC110  (the history is opened in a thread)
        await asyncio.sleep(0.001)
    recording.cancel()
    run.state.plan, run.state.rounds = PLAN.extend(PLAN.successor(5, rounds=70)), 73
    await recorder.end(ended_well=True)
    (row,) = RunHistory(tmp_path).runs()
    assert row["rounds"] == 73
    assert "\nrounds = 70\n" in row["config"]
    assert ("extended", "to 70 rounds of training") in [(e["kind"], e["text"]) for e in recorder.events()]


async def test_run_whose_nodes_have_yet_to_resume_is_not_a_new_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_recorder, "_SAMPLE_EVERY_S", 0.001)
    await recorded(tmp_path, Run(first=5))
    again = Run()  # the plan of the first node's checkpoint
    again.does = NodeState.UNSPECIFIED
    recorder = RunRecorder(Config(), tmp_path, False, again)
    recording = asyncio.create_task(recorder.record())
    await asyncio.sleep(0.05)
    assert again.restored == []
    again.state.plan, again.does, again.round = Plan((PLAN.successor(6),)), NodeState.RUNNING, 6
    while not again.restored:  # noqa: ASYNC110  (the history is opened in a thread)
        await asyncio.sleep(0.001)
    recording.cancel()
    await recorder.end(ended_well=True)
    assert len(RunHistory(tmp_path).runs()) == 1


async def test_restarted_controller_continues_round_counts_and_events(tmp_path: Path) -> None:
    await recorded(tmp_path, Run(first=5))
    again = Run(first=7)
    await recorded(tmp_path, again, restarted=True)
    assert len(RunHistory(tmp_path).runs()) == 1
    assert again.restored[0][0] == 6
    events = [event["kind"] for event in RunHistory(tmp_path).events(1)]
    assert events == ["started", "finished", "controller restarted", "finished"]


async def test_new_run_of_the_same_configuration_is_another_one(tmp_path: Path) -> None:
    await recorded(tmp_path, Run())
    await recorded(tmp_path, Run())
    assert len(RunHistory(tmp_path).runs()) == 2


async def test_history_continues_when_a_file_can_be_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_recorder, "_SAMPLE_EVERY_S", 0.01)
    monkeypatch.setattr(run_recorder, "log", structlog.get_logger())  # one that no test before has configured for good
    run = Run()
    recorder = RunRecorder(Config(), tmp_path, False, run)
    with capture_logs() as logged:
        recording = asyncio.create_task(recorder.record())
        while not run.restored:  # noqa: ASYNC110  (the history is opened in a thread)
            await asyncio.sleep(0.001)
        with none_free():
            await asyncio.sleep(0.1)
            recorder.note(RunEvent(1.0, 3, "poison alarm", "from n0"))
            while not logged:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        while "the history is recorded again" not in [line["event"] for line in logged]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        recording.cancel()
    await recorder.end(ended_well=True)
    assert sum(line["log_level"] == "warning" for line in logged) == 1
    assert [event["kind"] for event in recorder.events()] == ["started", "poison alarm", "finished"]
