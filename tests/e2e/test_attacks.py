"""Attacks on a running cluster: from a stranger, and from a member with a valid certificate of its own.

All tests share one cluster. The last one ends it, and compares the accuracies with those of a run without attacks.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import grpc
import grpc.aio
import psutil
import pytest

from edgenode.net.peer_calls import probe
from edgenode.net.tls import Security
from edgenode.observability.status_view import faults_of
from edgenode.security.subject import Subject
from tests.e2e.attacker import (
    ATTACKS,
    UNCOUNTED,
    Attack,
    Attacker,
    Cluster,
    evict_as_operator,
    fetch_many_models,
    member,
    push_far_ahead,
    read_status,
    report_without_end,
    speak_for_a_neighbour,
    stop_with_a_forged_record,
    strangers,
    unregistered,
)
from tests.e2e.fleet import DEADLINE_S, Fleet, Process
from tests.e2e.test_simulate import models

pytestmark = pytest.mark.group("attacks")

_STRANGERS = strangers()
_NAMES = [f"node-{i}" for i in range(4)]
_AT_THE_DOOR = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.DEADLINE_EXCEEDED)
_QUICK = [attack for attack in ATTACKS if attack is not fetch_many_models]
# By kind: a push, a record, a report, an order, and a flood.
_ONE_OF_EACH = (
    push_far_ahead,
    stop_with_a_forged_record,
    speak_for_a_neighbour,
    evict_as_operator,
    report_without_end,
)
_OF_A_MEMBER = [
    attack if attack in _ONE_OF_EACH else pytest.param(attack, marks=pytest.mark.slow) for attack in ATTACKS
]
_ADVANCE = 10  # rounds that show that the run goes on
_WARM = 25  # from then on, with a checkpoint written, a node takes no more memory
_POLL_S = 0.2
_MOST_GROWN_BYTES = 64 << 20


class Target:
    """The cluster under attack."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.config = fleet.configure(
            {"run.rounds": 1_000_000, "algorithm.name": "sp", "topology.graphs": ["a"]}, paced=True
        )
        self.controller = fleet.controller()
        self.nodes = dict(zip(_NAMES, fleet.nodes(4), strict=True))
        self.address = self.controller.logs(r"controller ready .*listen=(\S+)")[1]
        self.operator = member(fleet.folder, "operator.pem")

    async def cluster(self) -> Cluster:
        """The cluster as it is now, once every node has begun."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            status = await read_status(self.address, self.operator)
            if status.plan and len(status.nodes) == 4 and all(view.status.round > _WARM for view in status.nodes):
                return Cluster(self.config, self.address, status)
            await asyncio.sleep(_POLL_S)
        raise AssertionError("the run does not begin")

    async def member(self) -> Attacker:
        """A faulty node-3, beside the true one, with its certificate and as its process."""
        security = member(self.fleet.state("node-3"))
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            attacker = Attacker(await self.cluster(), security)  # under the address of the attack before, for a while
            true = await probe(attacker.cluster.address("node-3"), attacker.identity(), DEADLINE_S)
            if true is not None:
                return replace(attacker, process=true.process)
            await asyncio.sleep(0.1)
        raise AssertionError("the true one does not answer")

    async def goes_on(self) -> None:
        """Every node comes some rounds further, under the plan and the controller of before."""
        before = await self.cluster()
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            after = await self.cluster()
            if all(after.round(name) >= before.round(name) + _ADVANCE for name in _NAMES):
                assert after.plan.latest.names == tuple(_NAMES)
                assert [p.name for p in self.processes if p.popen.poll() is not None] == []
                return
            await asyncio.sleep(_POLL_S)
        raise AssertionError(f"the run stands still\n{self.fleet.report()}")

    @property
    def processes(self) -> list[Process]:
        return [self.controller, *self.nodes.values()]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with Fleet(tmp_path_factory.mktemp("attacks") / "fleet") as fleet:
        yield Target(fleet)


@pytest.mark.parametrize("security", _STRANGERS.values(), ids=_STRANGERS)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_stranger_is_refused_at_the_door(target: Target, attack: Attack, security: Security) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await attack(Attacker(await target.cluster(), security))
    assert refused.value.code() in _AT_THE_DOOR


async def test_key_that_nobody_has_registered_is_refused_by_each_node(target: Target) -> None:
    """The certificate is of the true authority. A device that has enrolled is let in before any plan names it."""
    cluster, subject = await target.cluster(), Subject("node", "node-9")
    unknown = Attacker(cluster, unregistered(target.fleet.folder / "authority", subject), "node-9")
    for node in _NAMES:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unknown.fetch(node)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert await probe(cluster.address(node), unknown.identity(), DEADLINE_S) is None
    target.fleet.authority().keep(target.fleet.state("node-9") / "credentials.pem", subject)
    newcomer = replace(unknown, security=member(target.fleet.state("node-9")))
    assert await newcomer.fetch("node-0") > 0


@pytest.mark.parametrize("attack", _OF_A_MEMBER, ids=lambda attack: attack.__name__)
async def test_member_harms_no_other(target: Target, attack: Attack) -> None:
    faults, logged = faults_of_the_member(await target.cluster()), len(target.controller.stderr)
    attacked = [psutil.Process(p.popen.pid) for p in (target.controller, target.nodes["node-0"])]
    before_bytes = [process.memory_info().rss for process in attacked]
    await attempt(attack, target)
    await target.goes_on()
    for process, before in zip(attacked, before_bytes, strict=True):
        assert process.memory_info().rss - before < _MOST_GROWN_BYTES
    if attack in UNCOUNTED:
        assert re.search(UNCOUNTED[attack], target.controller.stderr[logged:])
    elif attack is not fetch_many_models:  # which a member may do
        deadline = time.monotonic() + DEADLINE_S
        while faults_of_the_member(await target.cluster()) == faults:
            assert time.monotonic() < deadline
            await asyncio.sleep(2.0)
            await attempt(attack, target)  # the true member may have ended the stream before it was read


async def attempt(attack: Attack, target: Target) -> None:
    """Attack as a member. An attack may be refused as a whole, or part by part."""
    with suppress(grpc.aio.AioRpcError):
        await attack(await target.member())


def faults_of_the_member(cluster: Cluster) -> int:
    """What all other processes have counted of node-3. Nobody else has any.

    The true member may get the answer to a push of the attacker, and counts it.
    """
    found = [fault for counted_by, fault in faults_of(cluster.status.nodes) if counted_by != "node-3"]
    assert {fault.peer for fault in found} <= {"node-3"}
    return sum(fault.count for fault in found)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_others_end_with_the_accuracy_of_a_clean_run(target: Target) -> None:
    """With its models too, to the bit: nothing that was refused has changed one."""
    for attack in _QUICK:
        with suppress(grpc.aio.AioRpcError):
            await attack(await target.member())
    target.fleet.stop(target.processes, "--controller", target.address)
    ended = [json.loads((target.fleet.state(name) / "result.json").read_text())["nodes"][0] for name in _NAMES]
    (rounds,) = {node["rounds"] for node in ended}
    at_full_speed = ("--set", "task.entry=edgenode.tasks.image_task:ImageTask")
    command = ("simulate", "--config", str(target.fleet.folder / "run.toml"), "--set", f"run.rounds={rounds}")
    target.fleet.command(*command, *at_full_speed, "--out", "clean", timeout_s=600)
    clean = json.loads((target.fleet.folder / "clean" / "result.json").read_text())["nodes"]
    assert [node["test_accuracy"] for node in ended] == [node["test_accuracy"] for node in clean]
    assert models(target.fleet.folder) == models(target.fleet.folder / "clean")
