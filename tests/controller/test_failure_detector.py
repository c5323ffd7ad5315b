"""The failure detector evicts silent nodes that fail a probe, and none while the run is paused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

import pytest
from structlog.testing import capture_logs

from edgenode.config.load import load
from edgenode.config.schema import Config
from edgenode.controller import failure_detector as module
from edgenode.controller.failure_detector import FailureDetector
from edgenode.controller.liveness import Straggling
from edgenode.controller.registry import NodeRegistry
from edgenode.controller.standby import NO_LINKS, TOO_SLOW, Probation
from edgenode.core.protocol.controller.cluster import Cluster, RunSpec
from edgenode.core.protocol.events import UNREQUESTED, Disconnected, Evict, Pause, Reported, Send
from edgenode.core.protocol.orders import BlockedLink, Fence, FenceAnswer, Join, Leadership, Progress
from edgenode.core.protocol.status import NodeState, NodeStatus
from edgenode.core.topology.graph import GraphSpec
from edgenode.core.topology.period import DataSize
from edgenode.core.topology.requirements import Requirements
from edgenode.core.topology.schedule import ScheduleSpec
from edgenode.net.wire import Identity
from tests.net.peer_ends import until

NODES = ("n0", "n1", "n2")
ANY_MEMBERS = Requirements()
EXCHANGES = Requirements("diloco", fixed=True, spans_period=True, admits=True)


def a_detector(
    straggler: str = "wait", requirements: Requirements = ANY_MEMBERS
) -> tuple[FailureDetector, Cluster, NodeRegistry, list[Evict]]:
    """Three members. None answers at its address."""
    config: Config = load(None, {"run.evict_after_s": 0.2, "run.straggler": straggler}, {})
    schedule = ScheduleSpec((GraphSpec("complete"),))
    cluster = Cluster(RunSpec("home", 3, "run", schedule, rounds=99, requirements=requirements), Leadership(0))
    nodes, evicted = NodeRegistry(), list[Evict]()
    for node in NODES:
        cluster.handle(Reported(node, Join("127.0.0.1:1", "run", DataSize(1, 1), process="p")))
        nodes.connected(node, "127.0.0.1:1", "p")
    return (
        FailureDetector(config, Identity("home", "controller", "run"), cluster, nodes, evicted.append),
        cluster,
        nodes,
        evicted,
    )


async def watch(
    failure_detector: FailureDetector, monkeypatch: pytest.MonkeyPatch, evicted: Sequence[Evict] | None = None
) -> None:
    """Watch for a moment, or until a node is evicted."""
    monkeypatch.setattr(module, "_CHECK_EVERY_S", 0.01)
    monkeypatch.setattr(module, "_PROBE_S", 0.05)
    task = asyncio.create_task(failure_detector.watch())
    if evicted is None:
        await asyncio.sleep(0.5)
    else:
        await until(lambda: bool(evicted))
    task.cancel()


def silence(nodes: NodeRegistry, state: NodeState) -> None:
    """n2 is silent, and n0 waits for it unless it is paused."""
    waits = {"waiting_for": ("n2",), "waiting_s": 60} if state is NodeState.RUNNING else {}
    nodes.reported("n0", NodeStatus(state=state, **waits))  # type: ignore[arg-type]
    nodes["n0"].last_seen = time.monotonic() + 60  # it keeps reporting
    nodes["n2"].last_seen = time.monotonic() - 60


async def test_silent_node_that_fails_a_probe_is_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    failure_detector, _, nodes, evicted = a_detector()
    silence(nodes, NodeState.RUNNING)
    await watch(failure_detector, monkeypatch, evicted)
    assert evicted[:1] == [Evict(UNREQUESTED, "n2")]


async def test_silent_member_that_restarted_ones_wait_for_is_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    failure_detector, cluster, _, evicted = a_detector(requirements=EXCHANGES)
    assert cluster.state.plan is not None
    for node in ("n0", "n1"):  # n0 comes back first, so n1 is ordered to restart
        saved, plan = frozenset({40}), cluster.state.plan
        cluster.handle(Disconnected(node))
        cluster.handle(Reported(node, Join("127.0.0.1:1", "run", DataSize(1, 1), saved, plan, process="q")))
    cluster.handle(Disconnected("n2"))
    await watch(failure_detector, monkeypatch, evicted)
    assert evicted[:1] == [Evict(UNREQUESTED, "n2")]


async def test_paused_run_evicts_neither_silent_nor_slow_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    failure_detector, cluster, nodes, evicted = a_detector("drop")
    cluster.handle(Pause(0))
    failure_detector.straggling = {"n1": Straggling(1.0, 60.0)}  # it held the others up until a moment ago
    silence(nodes, NodeState.PAUSED)
    await watch(failure_detector, monkeypatch)
    assert evicted == []
    assert failure_detector.straggling == {}


async def test_slow_nodes_are_evicted_only_if_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for straggler, expected in (("drop", [Evict(UNREQUESTED, "n1")]), ("wait", [])):
        failure_detector, _, _, evicted = a_detector(straggler)
        failure_detector.probation = Probation(60.0)
        failure_detector.straggling = {"n1": Straggling(1.0, 60.0)}
        await watch(failure_detector, monkeypatch, evicted if expected else None)
        assert evicted[:1] == expected
        why = f"n1 was evicted for 60 s, because {TOO_SLOW}"
        assert failure_detector.probation.waiting() == ({"n1": why} if expected else {})


@pytest.mark.parametrize("there", [True, False], ids=["the controller reaches n2", "it does not"])
async def test_reported_link_evicts_only_who_does_not_answer(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    failure_detector, cluster, nodes, evicted = a_detector()
    failure_detector.probation = Probation(60.0)
    failure_detector._probe = partial(_answer, there)
    assert cluster.state.plan is not None
    blocked = (BlockedLink("n2", 0, "127.0.0.1:1", "no answer", 1e6),)
    cluster.handle(Reported("n1", Progress(1, 0, cluster.state.plan.latest.digest, None, blocked)))
    for node, waits in (("n0", {}), ("n1", {}), ("n2", {"waiting_for": ("n1",), "waiting_s": 1e6})):
        nodes.reported(node, NodeStatus(state=NodeState.RUNNING, **waits))  # type: ignore[arg-type]
        nodes[node].last_seen = time.monotonic() + 60  # it keeps reporting
    await watch(failure_detector, monkeypatch, None if there else evicted)
    assert evicted[:1] == ([] if there else [Evict(UNREQUESTED, "n2")])
    assert failure_detector.probation.waiting() == (
        {} if there else {"n2": f"n2 was evicted for 60 s, because {NO_LINKS}"}
    )


@pytest.mark.slow
@pytest.mark.parametrize("evicted", [False, True])
async def test_link_works_again_unless_it_ended_with_a_member(monkeypatch: pytest.MonkeyPatch, evicted: bool) -> None:
    failure_detector, cluster, nodes, _ = a_detector()
    assert cluster.state.plan is not None
    digest = cluster.state.plan.latest.digest
    for node in NODES:
        nodes.reported(node, NodeStatus(state=NodeState.RUNNING))
        nodes[node].last_seen = time.monotonic() + 60
    for links in ((BlockedLink("n2", 0, "127.0.0.1:1", "no answer", 0.1),), ()):
        with capture_logs() as logs:
            cluster.handle(Reported("n1", Progress(1, 0, digest, None, links)))
            if evicted and not links:
                for send in cluster.handle(Evict(1, "n2")):
                    if isinstance(send, Send) and isinstance(fence := send.order, Fence):
                        known = FenceAnswer(fence.term, fence.ballot, 0, (), cluster.state.plan.records)
                        cluster.handle(Reported(send.node, known))
                assert "n2" not in cluster.state.plan.latest.names
            await watch(failure_detector, monkeypatch)
    assert ("a link works again" in {entry["event"] for entry in logs}) is not evicted


async def _answer(there: bool, *_: object) -> Identity | None:
    return Identity("home", "n2", "run", process="p") if there else None
