"""Attacks on a running cluster: from a stranger, and from a member with a valid certificate of its own.

All tests share one cluster. The last one ends it, and compares the accuracies with those of a run without attacks.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import suppress

import grpc
import grpc.aio
import psutil
import pytest

from edgenode.net.tls import Security
from tests.e2e.attacker import (
    ATTACKS,
    Attack,
    Attacker,
    Cluster,
    fetch_many_models,
    member,
    push_far_ahead,
    read_status,
    strangers,
)
from tests.e2e.fleet import DEADLINE_S, Fleet, Process

pytestmark = pytest.mark.xdist_group("attacks")

_STRANGERS = strangers()
_NAMES = [f"node-{i}" for i in range(4)]
_AT_THE_DOOR = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.DEADLINE_EXCEEDED)
_QUICK = [attack for attack in ATTACKS if attack is not fetch_many_models]
_OF_A_MEMBER = [*_QUICK, pytest.param(fetch_many_models, marks=pytest.mark.slow)]
_ADVANCE = 10  # rounds that show that the run goes on
_MOST_GROWN_BYTES = 64 << 20


class Target:
    """The cluster under attack."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.config = fleet.configure({"run.rounds": 1_000_000, "algorithm.name": "sp", "topology.graphs": ["a"]})
        self.controller = fleet.controller()
        self.nodes = dict(zip(_NAMES, fleet.nodes(4), strict=True))
        self.address = self.controller.logs(r"controller ready .*listen=(\S+)")[1]
        self.operator = member(fleet.folder, "operator.pem")

    async def cluster(self) -> Cluster:
        """The cluster as it is now, once every node has begun."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            status = await read_status(self.address, self.operator)
            if status.plan and len(status.nodes) == 4 and all(view.status.round > 2 for view in status.nodes):
                return Cluster(self.config, self.address, status)
        raise AssertionError("the run does not begin")

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


@pytest.mark.parametrize("attack", _OF_A_MEMBER, ids=lambda attack: attack.__name__)
async def test_member_harms_no_other(target: Target, attack: Attack) -> None:
    attacker = Attacker(await target.cluster(), member(target.fleet.state("node-3")))
    node = psutil.Process(target.nodes["node-0"].popen.pid)
    before_bytes = node.memory_info().rss
    with suppress(grpc.aio.AioRpcError):  # an attack may be refused as a whole, or part by part
        await attack(attacker)
    await target.goes_on()
    assert node.memory_info().rss - before_bytes < _MOST_GROWN_BYTES


async def test_member_is_named_and_its_faults_are_counted(target: Target) -> None:
    attacker = Attacker(await target.cluster(), member(target.fleet.state("node-3")))
    await push_far_ahead(attacker)
    deadline = time.monotonic() + DEADLINE_S
    faults: set[str] = set()
    while "node-3" not in faults and time.monotonic() < deadline:
        status = (await target.cluster()).status
        faults = {fault.peer for view in status.nodes if view.node == "node-0" for fault in view.status.faults}
        await asyncio.sleep(0.1)
    assert faults == {"node-3"}


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_others_end_with_the_accuracy_of_a_clean_run(target: Target) -> None:
    """To the bit: nothing that was refused has changed a model."""
    for attack in _QUICK:
        with suppress(grpc.aio.AioRpcError):
            await attack(Attacker(await target.cluster(), member(target.fleet.state("node-3"))))
    target.fleet.stop(target.processes, "--controller", target.address)
    ended = [json.loads((target.fleet.state(name) / "result.json").read_text())["nodes"][0] for name in _NAMES]
    (rounds,) = {node["rounds"] for node in ended}
    config = str(target.fleet.folder / "run.toml")
    target.fleet.command("simulate", config, "--set", f"run.rounds={rounds}", "--out", "clean", timeout_s=600)
    clean = json.loads((target.fleet.folder / "clean" / "result.json").read_text())["nodes"]
    assert [node["test_accuracy"] for node in ended] == [node["test_accuracy"] for node in clean]
