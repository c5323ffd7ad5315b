"""The lookout: it takes for dead who does not answer either, and nobody while the run is paused."""

from __future__ import annotations

import asyncio
import time

import pytest

from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.controller import failure_detector as module
from edgenode.controller.evidence import Straggling
from edgenode.controller.failure_detector import FailureDetector
from edgenode.controller.registry import NodeRegistry
from edgenode.core.protocol.cluster import Cluster, RunSpec
from edgenode.core.protocol.events import UNREQUESTED, Evict, Pause, Reported
from edgenode.core.protocol.orders import Join, Leadership
from edgenode.core.protocol.status import NodeState, NodeStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.schedule import ScheduleSpec
from edgenode.net.wire import Identity

NODES = ("n0", "n1", "n2")


def a_lookout(straggler: str = "wait") -> tuple[FailureDetector, Cluster, NodeRegistry, list[Evict]]:
    """Three members of whom n2 does not answer at its address."""
    config: Config = load(None, {"run.evict_after_s": 0.2, "run.straggler": straggler}, {})
    cluster = Cluster(RunSpec("home", 3, "run", ScheduleSpec((GraphSpec("a"),)), rounds=99), Leadership(0))
    nodes, evicted = NodeRegistry(), list[Evict]()
    for node in NODES:
        cluster.handle(Reported(node, Join("127.0.0.1:1", "run", 1, process="p")))
        nodes.joined(node, "127.0.0.1:1", "p")
    return (
        FailureDetector(config, Identity("home", "controller", "run"), cluster, nodes, evicted.append),
        cluster,
        nodes,
        evicted,
    )


async def looked(failure_detector: FailureDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(module, "_PROBE_S", 0.05)
    task = asyncio.create_task(failure_detector.watch())
    await asyncio.sleep(0.5)
    task.cancel()


def a_silence(nodes: NodeRegistry, state: NodeState) -> None:
    """n2 is silent, and n0 waits for it, unless it stands still as it was told to."""
    waits = {"waiting_for": ("n2",), "waiting_s": 60} if state is NodeState.RUNNING else {}
    nodes.reported("n0", NodeStatus(state=state, **waits))  # type: ignore[arg-type]
    nodes["n0"].seen = time.monotonic() + 60  # it keeps reporting
    nodes["n2"].seen = time.monotonic() - 60


async def test_who_is_silent_and_waited_for_and_does_not_answer_is_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failure_detector, _, nodes, evicted = a_lookout()
    a_silence(nodes, NodeState.RUNNING)
    await looked(failure_detector, monkeypatch)
    assert evicted[:1] == [Evict(UNREQUESTED, "n2")]


async def test_in_a_pause_nobody_is_taken_for_dead_nor_for_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    failure_detector, cluster, nodes, evicted = a_lookout("drop")
    cluster.handle(Pause(0))
    failure_detector.held = {"n1": Straggling(1.0, 60.0)}  # it held the others up until a moment ago
    a_silence(nodes, NodeState.PAUSED)
    await looked(failure_detector, monkeypatch)
    assert evicted == []
    assert failure_detector.held == {}


async def test_without_a_pause_the_slow_are_dropped_where_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    for straggler, gone in (("drop", [Evict(UNREQUESTED, "n1")]), ("wait", [])):
        failure_detector, _, _, evicted = a_lookout(straggler)
        failure_detector.held = {"n1": Straggling(1.0, 60.0)}
        await looked(failure_detector, monkeypatch)
        assert evicted[:1] == gone
